import { postgresMetadata } from "oci-manifold/storage/postgres";
import { metadataStoreContract } from "oci-manifold/testing";
import { beforeAll, describe, test } from "vitest";
import { dropSchema, newSchema, type PostgresServer, startPostgres } from "../interop/postgres.js";
import { requires } from "../interop/requires.js";

requires("initdb", "postgres")("PostgreSQL by", () => {
  let server: PostgresServer;
  let pool: ReturnType<PostgresServer["pool"]>;

  beforeAll(async () => {
    server = await startPostgres();
    pool = server.pool();
  });

  describe("a pool of one", () => {
    const create = async () => {
      const schema = newSchema();
      return { store: postgresMetadata({ pool: server.pool({ max: 1 }), schema }), dispose: () => dropSchema(pool, schema) };
    };
    metadataStoreContract({ test, create });
  });

  describe("another client's settings", () => {
    // What a database or role may have as its defaults: none of it may matter.
    const options =
      "-c default_transaction_isolation=serializable -c synchronous_commit=off -c search_path=pg_catalog -c bytea_output=escape";
    const create = async () => {
      const schema = newSchema();
      return { store: postgresMetadata({ pool: server.pool({ options }), schema }), dispose: () => dropSchema(pool, schema) };
    };
    metadataStoreContract({ test, create });
  });
});
