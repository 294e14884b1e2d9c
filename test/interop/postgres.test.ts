import { postgresMetadata } from "oci-manifold/storage/postgres";
import { metadataStoreContract } from "oci-manifold/testing";
import { beforeAll, describe, test } from "vitest";
import { dropSchema, newSchema, type PostgresServer, startPostgres } from "./postgres.js";
import { requires } from "./requires.js";

requires("initdb", "postgres")("PostgreSQL", () => {
  let server: PostgresServer;
  let pool: ReturnType<PostgresServer["pool"]>;

  beforeAll(async () => {
    server = await startPostgres();
    pool = server.pool();
  });

  describe("a pool of ten", () => {
    const create = async () => {
      const schema = newSchema();
      return { store: postgresMetadata({ pool, schema }), dispose: () => dropSchema(pool, schema) };
    };
    metadataStoreContract({ test, create });
  });

  describe("a pool of one", () => {
    const create = async () => {
      const schema = newSchema();
      return { store: postgresMetadata({ pool: server.pool({ max: 1 }), schema }), dispose: () => dropSchema(pool, schema) };
    };
    metadataStoreContract({ test, create });
  });
});
