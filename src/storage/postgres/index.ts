/**
 * Records in PostgreSQL, for any number of processes: `postgresMetadata`. The host gives the pool of the package `pg`; bytes are kept elsewhere, as by
 * `oci-manifold/storage/s3` or in a shared folder.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { fileBlobStore } from "oci-manifold/storage/files";
 * import { postgresMetadata } from "oci-manifold/storage/postgres";
 * import pg from "pg";
 *
 * const metadata = postgresMetadata({ pool: new pg.Pool({ max: 10 }) });
 * const registry = localRegistry({ storage: { blobs: fileBlobStore("/srv/images"), metadata }, name: "release" });
 * ```
 */
export type { PostgresClient, PostgresPool, PostgresResult } from "./pool.js";
export { type PostgresMetadataOptions, postgresMetadata } from "./postgres-metadata.js";
