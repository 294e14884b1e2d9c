/** Stores with the limits of what they stand for: code that passes its tests over these fits S3 and SQL. */
export { PartBacking } from "./part-backing.js";
export { partBlobStore } from "./part-blob-store.js";
export { transactionMetadataStore } from "./transaction-metadata.js";
