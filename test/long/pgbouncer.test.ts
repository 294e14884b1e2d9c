import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { metadataStoreContract } from "oci-manifold/testing";
import { beforeAll, describe, expect, test } from "vitest";
import { expectSerialOrder, raced } from "../chaos/serial-order.js";
import { asPostgres, dropSchema, newSchema, type PostgresServer, startPostgres } from "../interop/postgres.js";
import { freePort, RunningProcess, temporaryFolder } from "../interop/processes.js";
import { pathOf, requires } from "../interop/requires.js";

requires(
  "initdb",
  "postgres",
  "pgbouncer",
)("PgBouncer, with a connection for each transaction", () => {
  let server: PostgresServer;
  let port: number;

  beforeAll(async () => {
    server = await startPostgres();
    port = await freePort();
    const settings = join(await temporaryFolder(), "pgbouncer.ini");
    await writeFile(
      settings,
      `[databases]
postgres = host=127.0.0.1 port=${server.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
`,
    );
    const bouncer = new RunningProcess(...(await asPostgres(pathOf("pgbouncer") ?? "pgbouncer", [settings])));
    await bouncer.listening(port);
  });

  const pool = () => server.pool({ port });

  describe("keeps the contract", () => {
    const create = async () => {
      const schema = newSchema();
      return { store: postgresMetadata({ pool: pool(), schema }), dispose: () => dropSchema(server.pool(), schema) };
    };
    metadataStoreContract({ test, create });
  });

  test("gives commits of several clients, more than it has connections, an order", async () => {
    const schema = newSchema();
    const clients = [1, 2, 3].map(() => postgresMetadata({ pool: pool(), schema }));
    const attempts = await raced(clients, { rounds: 100 });
    const { committed } = await expectSerialOrder(postgresMetadata({ pool: pool(), schema }), attempts);
    expect(committed).toBeGreaterThan(100);
  });
});
