import { fileURLToPath } from "node:url";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { beforeAll, expect, test } from "vitest";
import { newSchema, type PostgresServer, startPostgres } from "../interop/postgres.js";
import { RunningProcess } from "../interop/processes.js";
import { requires } from "../interop/requires.js";
import { lease, putLease } from "../storage/neighbours.js";
import { hookedPool } from "../storage/postgres-pools.js";
import { expectSerialOrder, raced } from "./serial-order.js";

const long = Boolean(process.env.LONG);
const rounds = long ? 150 : 60;
const counter = fileURLToPath(new URL("./postgres-counter.mjs", import.meta.url));

requires("initdb", "postgres")("PostgreSQL under attack", () => {
  let server: PostgresServer;
  beforeAll(async () => {
    server = await startPostgres();
  });
  /** Makes stores over one new database, as several machines have them. */
  const database = () => {
    const schema = newSchema();
    return (max = 4) => postgresMetadata({ pool: server.pool({ max }), schema });
  };

  test("commits of several clients happen one after the other, conditions included", async () => {
    for (let seed = 1; seed <= (long ? 3 : 1); seed++) {
      const client = database();
      const attempts = await raced([client(), client(), client()], { rounds, seed });
      const { committed, refused } = await expectSerialOrder(client(), attempts);
      expect(committed).toBeGreaterThan(rounds);
      expect(refused).toBeGreaterThan(rounds);
    }
  });

  test("so do those through a pool of one connection, with reads between them", async () => {
    const client = database()(1);
    const reads = Promise.all(Array.from({ length: 200 }, (_, index) => client.get(lease(`l${index}`))));
    await expectSerialOrder(client, await raced([client], { rounds: rounds / 2, lanes: 20 }));
    await reads;
  });

  test("connections that the server ends at any moment lose nothing, repeat nothing and tell nothing wrong", async () => {
    const schema = newSchema();
    let commits = 0;
    const lost = new Error("Connection terminated unexpectedly");
    // Beside the server's own doing, the network loses some COMMITs on the way there, and the answers to others.
    const pool = () =>
      hookedPool(server.pool({ max: 4 }), async (text, run) => {
        const fate = text === "COMMIT" ? ++commits % 10 : 0;
        if (fate === 8) throw lost;
        const answer = await run();
        if (fate === 9) throw lost;
        return answer;
      });
    const clients = [1, 2, 3].map(() => postgresMetadata({ pool: pool(), schema }));
    await clients[0]?.ready();
    const admin = server.pool({ max: 1 });
    let over = false;
    let killed = 0;
    const killer = (async () => {
      while (!over) {
        const { rowCount } = await admin.query(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < 0.3",
        );
        killed += rowCount ?? 0;
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
    })();
    const attempts = await raced(clients, { rounds }).finally(() => {
      over = true;
    });
    await killer;
    const { committed } = await expectSerialOrder(postgresMetadata({ pool: server.pool(), schema }), attempts);
    expect(attempts.filter(({ outcome }) => outcome === "unknown").length).toBeGreaterThan(10);
    expect(killed).toBeGreaterThan(10);
    expect(committed).toBeGreaterThan(rounds);
  });

  test("a server that crashes and comes back has everything that was answered", async () => {
    const client = database();
    const clients = [client(), client()];
    let over = false;
    const crashes = (async () => {
      for (let crash = 0; crash < (long ? 6 : 2); crash++) {
        await new Promise((resolve) => setTimeout(resolve, 300));
        await server.stop("SIGQUIT");
        await server.start();
      }
      over = true;
    })();
    const attempts = [];
    for (let seed = 1; !over; seed++) attempts.push(...(await raced(clients, { rounds: 10, seed })));
    await crashes;
    await expectSerialOrder(client(), attempts);
  });

  test("two processes and this one count in one record without losing a step", async () => {
    const schema = newSchema();
    const times = long ? 300 : 50;
    const others = [1, 2].map(() => new RunningProcess(process.execPath, [counter, String(server.port), schema, String(times)]));
    const metadata = postgresMetadata({ pool: server.pool(), schema });
    for (let won = 0; won < times; ) {
      const record = await metadata.get(lease("counter"));
      const condition = record
        ? ({ key: lease("counter"), is: "version", version: record.version } as const)
        : ({ key: lease("counter"), is: "absent" } as const);
      if (await metadata.commit([condition], [putLease("counter", (record?.value.expiresAt ?? 0) + 1)])) won++;
    }
    for (const other of others) expect(await other.exited).toBe(0);
    expect((await metadata.get(lease("counter")))?.value.expiresAt).toBe(3 * times);
  });

  test("large commits, which have the store to themselves, do not stand in the way of others for good", async () => {
    const client = database();
    const [one, other] = [client(), client()];
    const large = (name: string) => Array.from({ length: 2000 }, (_, index) => putLease(`${name} ${index}`));
    const work = Array.from({ length: long ? 100 : 20 }, (_, index) => [
      one.commit([], index % 5 === 0 ? large(`l${index}`) : [putLease(`s${index}`)]),
      other.commit([{ key: lease("never"), is: "absent" }], index % 7 === 0 ? large(`m${index}`) : [putLease(`s${index}`)]),
    ]);
    expect(new Set(await Promise.all(work.flat()))).toEqual(new Set([true]));
  });

  test("a process that stops in the middle of a commit holds others up for some seconds only", async () => {
    const schema = newSchema();
    let frozen = () => {};
    const freezing = new Promise<void>((resolve) => {
      frozen = resolve;
    });
    let thaw = () => {};
    const stuck = hookedPool(server.pool(), async (text, run) => {
      if (!text.includes("nextval")) return run();
      frozen();
      await new Promise<void>((resolve) => {
        thaw = resolve;
      });
      throw Object.assign(new Error("the process is gone"), { code: "25P03" });
    });
    const gone = postgresMetadata({
      pool: stuck,
      schema,
      clock: { now: Date.now, elapsed: () => performance.now(), sleep: () => new Promise(() => {}) },
    });
    void gone.commit([], [putLease("a", 1)]);
    await freezing;
    const other = postgresMetadata({ pool: server.pool(), schema });
    expect(await other.commit([{ key: lease("a"), is: "absent" }], [putLease("a", 2)])).toBe(true);
    thaw();
  });
});
