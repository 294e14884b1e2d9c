/**
 * Blobs in a bucket of AWS S3 or of a server that speaks like it: `s3BlobStore`. `distributionBucket` reads the bucket of a docker-registry, for `oci-manifold/migrate`. The host gives the
 * AWS SDK's client; records are kept elsewhere, as by `oci-manifold/storage/postgres`.
 *
 * @example
 * ```ts
 * import { S3Client } from "@aws-sdk/client-s3";
 * import { localRegistry } from "oci-manifold";
 * import { postgresMetadata } from "oci-manifold/storage/postgres";
 * import { s3BlobStore } from "oci-manifold/storage/s3";
 * import pg from "pg";
 *
 * const blobs = s3BlobStore({ client: new S3Client({ region: "eu-central-1" }), bucket: "images" });
 * const metadata = postgresMetadata({ pool: new pg.Pool({ max: 10 }) });
 * const registry = localRegistry({ storage: { blobs, metadata }, name: "release" });
 * ```
 */
export { type DistributionBucketOptions, distributionBucket } from "./distribution-bucket.js";
export { type S3BlobStoreOptions, s3BlobStore } from "./s3-blobs.js";
export type { ModuleSource, S3ClientLike, S3Presigner, S3Sdk } from "./s3-sdk.js";
