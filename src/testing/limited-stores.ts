/** Stores with the limits of S3 and of SQL: code that passes its tests over these works there. */
export { PartBacking } from "./part-backing.js";
export { partBlobStore } from "./part-blob-store.js";
export { transactionMetadataStore } from "./transaction-metadata.js";
