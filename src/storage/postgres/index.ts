export type { PostgresClient, PostgresPool, PostgresResult } from "./pool.js";
export { type PostgresMetadataOptions, postgresMetadata } from "./postgres-metadata.js";
