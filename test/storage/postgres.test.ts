import { isRegistryError, type RegistryError } from "oci-manifold";
import type { MetadataStore } from "oci-manifold/extend";
import { type PostgresPool, postgresMetadata } from "oci-manifold/storage/postgres";
import { describe, expect, test } from "vitest";
import { beginLocked } from "../../src/storage/postgres/key-locks.js";
import { lease, putLease } from "./neighbours.js";
import { agreeingPool, type Hook, hookedPool } from "./postgres-pools.js";

const instant = { now: Date.now, elapsed: () => performance.now(), sleep: async () => {} };
const store = (hook: Hook, pool: PostgresPool = agreeingPool()) => {
  const hooked = hookedPool(pool, hook);
  return { metadata: postgresMetadata({ pool: hooked, clock: instant, startTimeout: "0s" }), pool: hooked };
};
const coded = (code: string, message = `failed with ${code}`) => Object.assign(new Error(message), { code });
/** Fails a query as often as told, the first time it is sent. */
const failing = (pattern: RegExp, error: Error, times = Number.POSITIVE_INFINITY): Hook => {
  let left = times;
  return async (text, run) => {
    if (!pattern.test(text) || left === 0) return run();
    left--;
    throw error;
  };
};
async function failure(work: Promise<unknown>): Promise<RegistryError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!isRegistryError(error)) throw new Error(`not a RegistryError: ${error}`);
  return error;
}

const change = /nextval/;
const lost = new Error("Connection terminated unexpectedly");

test("a commit is three round trips, whatever is in it, and a question is one", async () => {
  const { metadata, pool } = store((_, run) => run());
  await metadata.ready();
  for (const count of [1, 3, 50, 500]) {
    pool.sent.length = 0;
    const changes = Array.from({ length: count }, (_, index) => putLease(`l${index}`));
    expect(await metadata.commit([{ key: lease("x"), is: "absent" }], changes)).toBe(true);
    expect(pool.sent).toEqual([expect.stringMatching(/^BEGIN/), expect.stringMatching(change), "COMMIT"]);
  }
  pool.sent.length = 0;
  await metadata.commit([{ key: lease("x"), is: "absent" }], []);
  expect(pool.sent).toHaveLength(1);
});

describe("a connection that breaks", () => {
  test.each([
    ["at the beginning", /^BEGIN/],
    ["at the change", change],
  ])("%s of a commit costs another attempt on another connection", async (_, pattern) => {
    for (const error of [lost, coded("57P01"), coded("ECONNRESET"), coded("08006"), coded("40P01"), coded("40001")]) {
      const { metadata, pool } = store(failing(pattern, error, 2));
      await metadata.ready();
      Object.assign(pool.released, { broken: 0, whole: 0 });
      expect(await metadata.commit([], [putLease("a")])).toBe(true);
      expect(pool.released).toEqual({ broken: 2, whole: 1 });
      expect(pool.sent.filter((text) => text === "COMMIT")).toHaveLength(1);
    }
  });

  test("in the middle of COMMIT leaves a commit that is neither true nor false, once it is decided", async () => {
    for (const error of [lost, coded("57P01"), coded("ECONNRESET"), new Error("Query read timeout")]) {
      const { metadata, pool } = store(failing(/^COMMIT/, error, 1));
      const { code, retryAfter, message } = await failure(metadata.commit([], [putLease("a")]));
      expect([code, retryAfter, message]).toEqual(["UNAVAILABLE", 1, expect.stringContaining("not known whether it was")]);
      const [begun, , , again, rolledBack] = pool.sent.slice(2);
      expect([again, rolledBack]).toEqual([begun, "ROLLBACK"]);
      expect(pool.sent.filter((text) => change.test(text))).toHaveLength(1);
    }
  });

  test("and goes on breaking is told after a few attempts", async () => {
    const { metadata, pool } = store(failing(change, lost));
    const { code, retryAfter } = await failure(metadata.commit([], [putLease("a")]));
    expect([code, retryAfter]).toEqual(["UNAVAILABLE", 1]);
    expect(pool.sent.filter((text) => change.test(text))).toHaveLength(4);
    expect(pool.out).toBe(0);
  });

  test("costs a read another attempt too", async () => {
    const { metadata } = store(failing(/^SELECT value/, lost, 3));
    expect(await metadata.get(lease("a"))).toBeUndefined();
  });

  test("while nothing is asked of it does not end the process", async () => {
    const listeners = new Set<(error: Error) => void>();
    const told: number[] = [];
    const base = agreeingPool();
    const connect: PostgresPool["connect"] = (callback) =>
      base.connect((error, client) => {
        const watched = client && {
          ...client,
          on: (_: string, listener: (error: Error) => void) => listeners.add(listener),
          off: (_: string, listener: (error: Error) => void) => listeners.delete(listener),
        };
        callback(error, watched);
        // The server may end a connection in the same breath as it becomes free.
        told.push(listeners.size);
      });
    const hook: Hook = async (_, run) => {
      for (const listener of listeners) listener(lost);
      return run();
    };
    const { metadata } = store(hook, { ...base, connect });
    await metadata.ready();
    told.length = 0;
    await metadata.commit([], [putLease("a")]);
    expect([told, listeners.size]).toEqual([[1], 0]);
  });
});

describe("a server that takes a query and never answers", () => {
  const never = new Promise<never>(() => {});
  const impatient = (pattern: RegExp) => {
    const pool = hookedPool(agreeingPool(), (text, run) => (pattern.test(text) ? never : run()));
    return { pool, metadata: postgresMetadata({ pool, clock: instant, queryTimeout: "20ms", startTimeout: "0s" }) };
  };

  test.each([
    ["a start", /AS made/, (metadata: MetadataStore) => metadata.ready()],
    ["a read", /^SELECT value/, (metadata: MetadataStore) => metadata.get(lease("a"))],
    ["a listing", /^SELECT key/, (metadata: MetadataStore) => metadata.page({ kind: "lease", under: [], limit: 1 })],
    ["a question", /AS hold/, (metadata: MetadataStore) => metadata.commit([{ key: lease("a"), is: "absent" }], [])],
  ])("is given up on by %s, and its connection is closed", async (_, pattern, ask) => {
    const { metadata, pool } = impatient(pattern);
    expect(await failure(ask(metadata))).toMatchObject({
      code: "UNAVAILABLE",
      retryAfter: 1,
      message: expect.stringMatching(/PostgreSQL does not answer/),
      detail: { storage: "PostgreSQL" },
    });
    expect([pool.out, pool.released.broken]).toEqual([0, 1]);
    expect(pool.sent.filter((text) => pattern.test(text))).toHaveLength(1);
  });

  test("and a pool that gives no connection is not waited for either; what it gives later goes back", async () => {
    const base = agreeingPool();
    const given: (() => void)[] = [];
    const pool = hookedPool({ ...base, connect: (callback) => void given.push(() => base.connect(callback)) });
    const metadata = postgresMetadata({ pool, queryTimeout: "20ms" });
    expect(await failure(metadata.get(lease("a")))).toMatchObject({ code: "UNAVAILABLE", status: 503 });
    for (const give of given) give();
    await expect.poll(() => pool.released).toEqual({ broken: 0, whole: 1 });
    expect(pool.out).toBe(0);
  });

  test("is waited for longer the longer that lasts, says Retry-After", async () => {
    let now = 0;
    let up = true;
    const hook: Hook = async (_, run) => (up ? run() : Promise.reject(coded("ECONNREFUSED")));
    const metadata = postgresMetadata({
      pool: hookedPool(agreeingPool(), hook),
      clock: { now: () => now, elapsed: () => now, sleep: async () => {} },
    });
    await metadata.ready();
    const told: (number | undefined)[] = [];
    up = false;
    for (const wait of [0, 10_000, 30_000, 200_000]) {
      now += wait;
      told.push((await failure(metadata.get(lease("a")))).retryAfter);
    }
    up = true;
    await metadata.get(lease("a"));
    up = false;
    told.push((await failure(metadata.get(lease("a")))).retryAfter);
    expect(told).toEqual([1, 5, 20, 60, 1]);
  });
});

describe("what goes wrong with the server is told with what to do", () => {
  const secret = "postgres://registry:hush-hush@127.0.0.1/registry";
  test.each([
    ["53100", "INSUFFICIENT_STORAGE", /disk .* is full: free space/],
    ["53300", "UNAVAILABLE", /no more connections .*max_connections/],
    ["53200", "UNAVAILABLE", /out of memory .*max_locks_per_transaction/],
    ["55P03", "UNAVAILABLE", /took too long .*try again/],
    ["57014", "UNAVAILABLE", /took too long .*try again/],
    ["25006", "UNAVAILABLE", /takes no writes .*primary/],
    ["28P01", "UNAVAILABLE", /does not accept .*correct the pool's settings/],
    ["3D000", "UNAVAILABLE", /does not accept .*database/],
    ["42501", "UNAVAILABLE", /denies .*permissions/],
    ["42P01", "UNAVAILABLE", /tables .* missing .*restore/],
    ["ECONNREFUSED", "UNAVAILABLE", /does not answer \(ECONNREFUSED\): check that it runs/],
    ["ENOTFOUND", "UNAVAILABLE", /does not answer \(ENOTFOUND\)/],
    ["57P03", "UNAVAILABLE", /does not answer \(57P03\)/],
    ["EPIPE", "UNAVAILABLE", /does not answer \(EPIPE\)/],
  ])("%s", async (state, code, message) => {
    const { metadata } = store(failing(/./, Object.assign(coded(state, `no way to ${secret}`), { connectionString: secret })));
    for (const work of [() => metadata.ready(), () => metadata.get(lease("a")), () => metadata.commit([], [putLease("a")])]) {
      const error = await failure(work());
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
      expect(`${error.message} ${error.cause} ${JSON.stringify(error.cause)} ${Object.values(error.cause ?? {})}`).not.toContain("hush");
    }
  });

  test("words without a code are understood", async () => {
    for (const [words, message] of [
      ["timeout exceeded when trying to connect", /no connection .* came free in time: check that it runs, and raise `max`/],
      ["Query read timeout", /does not answer/],
      ["Client has encountered a connection error and is not queryable", /does not answer/],
      ["Cannot use a pool after calling end on the pool", /pool .* was ended: close the registry before/],
    ] as const) {
      const { metadata } = store(failing(/./, new Error(words)));
      expect(await failure(metadata.get(lease("a")))).toMatchObject({ code: "UNAVAILABLE", message: expect.stringMatching(message) });
    }
  });

  test("a bug stays a bug", async () => {
    const bug = new TypeError("undefined is not a function");
    const { metadata } = store(failing(/^SELECT value/, bug));
    await expect(metadata.get(lease("a"))).rejects.toBe(bug);
  });

  test("a server that was away is asked again at the next use", async () => {
    const { metadata } = store(failing(/AS made/, coded("ECONNREFUSED"), 4));
    await failure(metadata.ready());
    await metadata.ready();
  });
});

test("close waits for what is under way, is idempotent, leaves the pool open, and makes later use fail clearly", async () => {
  const { metadata } = store((_, run) => run());
  const committing = metadata.commit([], [putLease("a")]);
  await Promise.all([metadata.close(), metadata.close()]);
  expect(await committing).toBe(true);
  expect(await failure(metadata.get(lease("a")))).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("closed") });
});

test("a schema's name becomes part of statements, so it is checked", () => {
  for (const schema of ["", 'a"; DROP TABLE x', "1st", "a-b", "pg_mine", "x".repeat(64)])
    expect(() => postgresMetadata({ pool: agreeingPool(), schema })).toThrow(/cannot be a schema's name/);
  expect(() => postgresMetadata({ pool: agreeingPool(), schema: "x".repeat(63) })).not.toThrow();
});

test("versions may come as text, number or bigint", async () => {
  for (const version of ["17", 17, 17n]) {
    const rows = [{ key: "a", value: '{"holder":"h","expiresAt":1}', version, bytes: null }];
    const { metadata } = store(async (text, run) => (/^SELECT (?:key|value)/.test(text) ? { rows } : run()));
    expect((await metadata.get(lease("a")))?.version).toBe(17);
    expect((await metadata.page({ kind: "lease", under: [], limit: 1 }))[0]?.version).toBe(17);
  }
});

describe("locks", () => {
  const locksIn = (text: string) => {
    const [, ids = "", exclusive = ""] = /'\{([^}]*)\}'::bigint\[\], '\{([^}]*)\}'/.exec(text) ?? [];
    return ids.split(",").map((id, index) => ({ id: BigInt(id), exclusive: exclusive.split(",")[index] === "true" }));
  };

  test("are taken in one order, exclusive only for what changes, each key once", () => {
    const conditions = ["a", "b", "c"].map((name) => ({ key: lease(name), is: "absent" }) as const);
    const one = locksIn(beginLocked("s", conditions, [putLease("c"), putLease("d"), putLease("d")]));
    const other = locksIn(beginLocked("s", conditions.toReversed(), [putLease("d"), putLease("c")]));
    expect(other).toEqual(one);
    const [store, ...keys] = one;
    expect(store?.exclusive).toBe(false);
    expect(keys.filter(({ exclusive }) => exclusive)).toHaveLength(2);
    expect(keys).toHaveLength(4);
    expect(keys.every(({ id }, index) => index === 0 || id > (keys[index - 1]?.id ?? id))).toBe(true);
    expect(locksIn(beginLocked("other", conditions, [putLease("c")])).some(({ id }) => one.some((lock) => lock.id === id))).toBe(false);
  });

  test("are never more than the server has room for: a large commit has the store to itself", () => {
    const keys = Array.from({ length: 61 }, (_, index) => putLease(`l${index}`));
    const [store] = locksIn(beginLocked("s", [], keys.slice(0, 60)));
    expect(locksIn(beginLocked("s", [], keys.slice(0, 60)))).toHaveLength(61);
    expect(locksIn(beginLocked("s", [], keys))).toEqual([{ id: store?.id, exclusive: true }]);
  });
});
