import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { lease, putLease } from "../storage/neighbours.js";
import { hookedPool } from "../storage/postgres-pools.js";
import { newSchema, type PostgresServer, startPostgres } from "./postgres.js";
import { requires } from "./requires.js";

requires("initdb", "postgres")("what is wrong with a PostgreSQL server is told", () => {
  let server: PostgresServer;
  let pool: ReturnType<PostgresServer["pool"]>;

  beforeAll(async () => {
    server = await startPostgres();
    pool = server.pool();
  });

  test("when it is away, and forgotten when it is back", async () => {
    const mine = await startPostgres();
    const metadata = postgresMetadata({ pool: mine.pool({ password: "hush-hush" }) });
    await metadata.commit([], [putLease("a")]);
    await mine.stop();
    const away = { code: "UNAVAILABLE", message: expect.stringMatching(/does not answer .*check that it runs/) };
    for (const work of [() => metadata.get(lease("a")), () => metadata.commit([], [putLease("b")])]) {
      const error = await work().catch((reason: unknown) => reason);
      expect(error).toMatchObject(away);
      expect(String(Object(error).message) + String(Object(error).cause)).not.toContain("hush");
    }
    await mine.start();
    expect((await metadata.get(lease("a")))?.value.holder).toBe("h");
    expect(await metadata.commit([], [putLease("b")])).toBe(true);
  });

  test("when the network to it swallows everything; then its connections are made anew", async () => {
    let cut = false;
    const proxy = createServer((socket) => {
      const there = connect(server.port, "127.0.0.1");
      const pass = (from: Socket, to: Socket) => from.on("data", (bytes) => !cut && to.write(bytes));
      pass(socket, there);
      pass(there, socket);
      for (const [one, other] of [
        [socket, there],
        [there, socket],
      ] as const)
        one.on("error", () => {}).on("close", () => other.destroy());
    });
    await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void proxy.close());
    const pool = server.pool({ port: (proxy.address() as AddressInfo).port, max: 2, connectionTimeoutMillis: 500 });
    const metadata = postgresMetadata({ pool, schema: newSchema(), queryTimeout: "300ms" });
    await metadata.commit([], [putLease("a")]);
    cut = true;
    // More than the pool has connections: none may be lost for good.
    const reads = await Promise.allSettled(Array.from({ length: 6 }, () => metadata.get(lease("a"))));
    for (const read of reads) expect(read).toMatchObject({ status: "rejected", reason: { code: "UNAVAILABLE", status: 503 } });
    cut = false;
    await expect.poll(() => metadata.get(lease("a")).catch(() => undefined), { timeout: 10_000 }).toBeDefined();
  });

  test("when it has no connection left", async () => {
    const mine = await startPostgres();
    await mine.pool().query("ALTER SYSTEM SET max_connections = 6");
    await mine.pool().query("ALTER SYSTEM SET superuser_reserved_connections = 0");
    await mine.stop();
    await mine.start();
    const taken = mine.pool({ max: 6 });
    const clients = await Promise.all(Array.from({ length: 6 }, () => taken.connect()));
    const metadata = postgresMetadata({ pool: mine.pool(), startTimeout: "0s" });
    await expect(metadata.ready()).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringMatching(/no more connections/) });
    for (const client of clients) client.release();
    await taken.end();
    await metadata.ready();
  });

  test("when the database is another's, or the role may do nothing", async () => {
    await expect(postgresMetadata({ pool: server.pool({ database: "elsewhere" }) }).ready()).rejects.toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringMatching(/3D000.*correct the pool's settings/),
    });
    await pool.query("CREATE ROLE stranger LOGIN");
    const stranger = server.pool({ user: "stranger" });
    const schema = newSchema();
    await expect(postgresMetadata({ pool: stranger, schema }).ready()).rejects.toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringMatching(/42501.*permissions/),
    });
    // A schema of its own is enough.
    await pool.query(`CREATE SCHEMA "${schema}" AUTHORIZATION stranger`);
    expect(await postgresMetadata({ pool: stranger, schema }).commit([], [putLease("a")])).toBe(true);
    // One that was made by another needs these.
    const granted = newSchema();
    await postgresMetadata({ pool, schema: granted }).ready();
    await expect(postgresMetadata({ pool: stranger, schema: granted }).ready()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await pool.query(`GRANT USAGE ON SCHEMA "${granted}" TO stranger`);
    await pool.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "${granted}" TO stranger`);
    await pool.query(`GRANT USAGE ON ALL SEQUENCES IN SCHEMA "${granted}" TO stranger`);
    expect(await postgresMetadata({ pool: stranger, schema: granted }).commit([], [putLease("a")])).toBe(true);
  });

  test("when it is not encoded in UTF-8", async () => {
    await pool.query("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0");
    await expect(postgresMetadata({ pool: server.pool({ database: "latin" }) }).ready()).rejects.toThrow(
      /encoded in LATIN1: use one .* UTF8/,
    );
  });

  test("when it takes no writes", async () => {
    const schema = newSchema();
    await postgresMetadata({ pool, schema }).ready();
    const standby = postgresMetadata({ pool: server.pool({ options: "-c default_transaction_read_only=on" }), schema });
    expect(await standby.get(lease("a"))).toBeUndefined();
    await expect(standby.commit([], [putLease("a")])).rejects.toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringMatching(/25006.*primary/),
    });
  });

  test("when others hold a record for longer than the role may wait", async () => {
    const schema = newSchema();
    let go = () => {};
    let begun = () => {};
    const holding = new Promise<void>((resolve) => {
      begun = resolve;
    });
    const slow = hookedPool(pool, async (text, run) => {
      if (text === "COMMIT") {
        begun();
        await new Promise<void>((resolve) => {
          go = resolve;
        });
      }
      return run();
    });
    const metadata = postgresMetadata({ pool, schema });
    await metadata.ready();
    const first = postgresMetadata({ pool: slow, schema }).commit([], [putLease("a")]);
    await holding;
    const hasty = postgresMetadata({ pool: server.pool({ statement_timeout: 200 }), schema });
    await expect(hasty.commit([{ key: lease("a"), is: "present" }], [putLease("b")])).rejects.toMatchObject({
      code: "UNAVAILABLE",
      retryAfter: 1,
      message: expect.stringMatching(/took too long/),
    });
    go();
    expect(await first).toBe(true);
  });
});
