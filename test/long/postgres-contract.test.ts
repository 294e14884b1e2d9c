import { postgresMetadata } from "oci-manifold/storage/postgres";
import { metadataStoreContract } from "oci-manifold/testing";
import { beforeAll, describe, test } from "vitest";
import { dropSchema, newSchema, type PostgresServer, startPostgres } from "../interop/postgres.js";
import { requires } from "../interop/requires.js";

type Pool = ReturnType<PostgresServer["pool"]>;

/** What a database or role may have as its defaults: none of it may matter. */
const unusualSettings =
  "-c default_transaction_isolation=serializable -c synchronous_commit=off -c search_path=pg_catalog -c bytea_output=escape";

requires("initdb", "postgres")("PostgreSQL by", () => {
  let server: PostgresServer;
  let pool: Pool;
  let alone: Pool;
  let unusual: Pool;

  beforeAll(async () => {
    server = await startPostgres();
    pool = server.pool();
    alone = server.pool({ max: 1 });
    unusual = server.pool({ options: unusualSettings });
  });

  describe("a pool of one", () => {
    const create = async () => {
      const schema = newSchema();
      return { store: postgresMetadata({ pool: alone, schema }), dispose: () => dropSchema(pool, schema) };
    };
    metadataStoreContract({ test, create });
  });

  describe("another client's settings", () => {
    const create = async () => {
      const schema = newSchema();
      return { store: postgresMetadata({ pool: unusual, schema }), dispose: () => dropSchema(pool, schema) };
    };
    metadataStoreContract({ test, create });
  });
});
