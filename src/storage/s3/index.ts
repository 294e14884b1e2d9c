export { type DistributionBucketOptions, distributionBucket } from "./distribution-bucket.js";
export { type S3BlobStoreOptions, s3BlobStore } from "./s3-blobs.js";
export type { ModuleSource, S3ClientLike, S3Presigner, S3Sdk } from "./s3-sdk.js";
