import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { fileStorage, sqliteMetadata } from "oci-manifold/storage/files";
import { afterEach, beforeEach, expect, test } from "vitest";
import { digestOf } from "../../src/core/digest.js";
import { findSqliteDriver } from "../../src/storage/files/sqlite-driver.js";
import { temporaryFolder } from "./temporary-folder.js";

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => folder.remove());

const lease = (name: string) => ({ kind: "lease", parts: [name] }) as const;
const putLease = (name: string, expiresAt = 1) => ({ put: lease(name), value: { holder: "h", expiresAt } }) as const;
const openDirectly = () => findSqliteDriver().open(join(folder.path, "metadata.sqlite"));

test("records survive close and reopen, and versions go on", async () => {
  const first = sqliteMetadata(folder.path);
  await first.commit([], [putLease("a")]);
  const version = (await first.get(lease("a")))?.version ?? 0;
  await first.commit([], [{ remove: lease("a") }]);
  await first.close();
  const second = sqliteMetadata(folder.path);
  await second.commit([], [putLease("a")]);
  expect((await second.get(lease("a")))?.version).toBeGreaterThan(version);
  await second.close();
});

test("the format is written with the first use", async () => {
  const metadata = sqliteMetadata(folder.path);
  await metadata.ready();
  await metadata.close();
  const database = openDirectly();
  expect(database.prepare("SELECT name, version, oldest FROM format").get()).toMatchObject({
    name: "oci-manifold.metadata",
    version: 4,
    oldest: 4,
  });
  database.close();
});

test("a newer format is refused", async () => {
  const metadata = sqliteMetadata(folder.path);
  await metadata.ready();
  await metadata.close();
  const database = openDirectly();
  database.exec("UPDATE format SET version = 5, oldest = 5");
  database.close();
  const later = sqliteMetadata(folder.path);
  await expect(later.ready()).rejects.toMatchObject({
    code: "UNAVAILABLE",
    message: expect.stringMatching(/newer version.*format 5.*update/),
  });
  await later.close();
});

test("an older format is brought forward, once", async () => {
  const metadata = sqliteMetadata(folder.path);
  const digests = ["a", "b"].map((text) => digestOf(Buffer.from(text)));
  await metadata.commit([], [{ put: lease("a"), value: { holder: "x", expiresAt: 1 } }]);
  await metadata.close();
  const database = openDirectly();
  const put = database.prepare("INSERT INTO records (kind, key, value, version) VALUES ('linkByDigest', ?, '{}', ?)");
  for (const [index, digest] of digests.entries()) {
    for (const repository of ["team/app", "z"])
      put.run(["release", digest, repository].join("\u0001"), 100 + 2 * index + repository.length);
  }
  database.exec("UPDATE format SET version = 1; ALTER TABLE format DROP COLUMN oldest");
  database.close();
  for (let start = 0; start < 2; start++) {
    const later = sqliteMetadata(folder.path);
    for (const digest of digests) {
      expect(await later.names({ kind: "linkByDigest", under: [digest, "release"], limit: 10 })).toEqual(["team/app", "z"]);
    }
    expect((await later.get(lease("a")))?.value.holder).toBe("x");
    await later.close();
  }
});

test("a foreign database is refused", async () => {
  const database = openDirectly();
  database.exec("CREATE TABLE format (name TEXT, version INTEGER)");
  database.close();
  const metadata = sqliteMetadata(folder.path);
  await expect(metadata.get(lease("a"))).rejects.toThrow("not one of oci-manifold's");
  await metadata.close();
});

test("a missing driver says what to install", () => {
  const installed = () => {
    throw Object.assign(new Error("Cannot find module"), { code: "MODULE_NOT_FOUND" });
  };
  const find = () => findSqliteDriver({ nodeVersion: "20.19.0", builtin: () => undefined, installed });
  expect(find).toThrow(/npm install libsql.*better-sqlite3.*22\.13/);
  expect(find).toThrow(expect.objectContaining({ code: "UNAVAILABLE" }));
});

test("a driver that is installed but broken is named with its reason", () => {
  const installed = (name: string) => {
    if (name === "libsql") throw new Error("the binary is for another platform");
    throw Object.assign(new Error("Cannot find module"), { code: "MODULE_NOT_FOUND" });
  };
  expect(() => findSqliteDriver({ nodeVersion: "20.19.0", builtin: () => undefined, installed })).toThrow(/another platform/);
});

test("drivers are tried in order, the built-in one only where it needs no flag", () => {
  const tried: string[] = [];
  class Fake {
    constructor(readonly path: string) {}
  }
  const sources = (nodeVersion: string) => ({
    nodeVersion,
    builtin: (name: string) => {
      tried.push(name);
      return { DatabaseSync: Fake };
    },
    installed: (name: string) => {
      tried.push(name);
      if (name === "libsql") throw Object.assign(new Error("no"), { code: "MODULE_NOT_FOUND" });
      return Fake;
    },
  });
  expect(findSqliteDriver(sources("24.0.0")).open("x")).toMatchObject({ path: "x" });
  findSqliteDriver(sources("22.13.0"));
  expect(tried).toEqual(["node:sqlite", "node:sqlite"]);
  findSqliteDriver(sources("22.12.0"));
  expect(tried.slice(2)).toEqual(["libsql", "better-sqlite3"]);
});

const driver = (name: string) => fileURLToPath(new URL(`./drivers/${name}.cjs`, import.meta.url));

test("commits of one turn share a transaction, and a reader sees them only once they are durable", async () => {
  const metadata = sqliteMetadata(folder.path, { driver: driver("recording") });
  await Promise.all(Array.from({ length: 20 }, (_, index) => metadata.commit([], [putLease(`l${index}`)])));
  // The other transactions were those that made the tables.
  const executed = (await readFile(join(folder.path, "executed"), "utf8")).split("\n");
  expect(executed.slice(executed.lastIndexOf("PRAGMA query_only = ON")).filter((sql) => sql === "COMMIT")).toHaveLength(1);
  await metadata.close();
});

test("a commit that fails in the database does not take others of its group with it", async () => {
  const metadata = sqliteMetadata(folder.path, { driver: driver("failing") });
  await writeFile(join(folder.path, "failing"), "big");
  const outcomes = await Promise.allSettled([
    metadata.commit([], [putLease("a")]),
    metadata.commit([], [putLease("b"), putLease("big")]),
    metadata.commit([{ key: lease("a"), is: "present" }], [putLease("c")]),
    metadata.commit([{ key: lease("b"), is: "present" }], [putLease("d")]),
  ]);
  expect(outcomes).toMatchObject([
    { value: true },
    { reason: { code: "INSUFFICIENT_STORAGE", message: expect.stringContaining("free space"), cause: { code: "SQLITE_FULL" } } },
    { value: true },
    { value: false },
  ]);
  expect(await metadata.get(lease("b"))).toBeUndefined();
  await metadata.close();
});

test("a database that another connection holds for a while is waited for, without blocking", async () => {
  const metadata = sqliteMetadata(folder.path);
  await metadata.ready();
  const other = openDirectly();
  other.exec("BEGIN IMMEDIATE");
  setTimeout(() => other.exec("COMMIT"), 300);
  expect(await metadata.commit([], [putLease("a")])).toBe(true);
  other.close();
  await metadata.close();
});

test("close ends what waits, is idempotent, and makes later use fail clearly", async () => {
  const { metadata } = fileStorage(folder.path);
  const committing = metadata.commit([], [putLease("a")]);
  await Promise.all([metadata.close(), metadata.close()]);
  expect(await committing).toBe(true);
  await metadata.close();
  await expect(metadata.get(lease("a"))).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("closed") });
  await expect(metadata.commit([], [])).rejects.toMatchObject({ code: "UNAVAILABLE" });
});

test("a page is one scan of the primary key", async () => {
  const metadata = sqliteMetadata(folder.path);
  await metadata.ready();
  const database = openDirectly();
  const plan = database.prepare(
    "EXPLAIN QUERY PLAN SELECT key, value, version FROM records WHERE kind = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?",
  );
  const details = plan.all("tag", "a", "b", 10).map((row) => (row as { detail: string }).detail);
  expect(details).toEqual([expect.stringMatching(/^SEARCH records USING PRIMARY KEY \(kind=\? AND key>\? AND key<\?\)$/)]);
  database.close();
  await metadata.close();
});

test("processes that create and count in one folder lose nothing", async () => {
  const Database = createRequire(import.meta.url).resolve("libsql");
  // The compiled library is not there in a unit test: the processes speak the store's SQL themselves, as another version of it would.
  const script = `
    const database = new (require(${JSON.stringify(Database)}))(${JSON.stringify(join(folder.path, "metadata.sqlite"))});
    database.exec("PRAGMA busy_timeout = 10000");
    for (let round = 0; round < 50; round++) {
      database.exec("BEGIN IMMEDIATE");
      const row = database.prepare("SELECT value FROM records WHERE kind = 'lease' AND key = 'counter'").get();
      const value = JSON.parse(row.value);
      value.expiresAt += 1;
      const { last } = database.prepare("UPDATE sequence SET last = last + 1 WHERE id = 1 RETURNING last").all()[0];
      database.prepare("UPDATE records SET value = ?, version = ? WHERE kind = 'lease' AND key = 'counter'").run(JSON.stringify(value), last);
      database.exec("COMMIT");
    }`;
  const metadata = sqliteMetadata(folder.path);
  await metadata.commit([], [putLease("counter", 0)]);
  const others = Promise.all(Array.from({ length: 3 }, () => promisify(execFile)(process.execPath, ["-e", script])));
  for (let won = 0; won < 50; ) {
    const record = await metadata.get(lease("counter"));
    const condition = { key: lease("counter"), is: "version", version: record?.version ?? -1 } as const;
    if (await metadata.commit([condition], [putLease("counter", (record?.value.expiresAt ?? 0) + 1)])) won += 1;
  }
  await others;
  expect((await metadata.get(lease("counter")))?.value.expiresAt).toBe(200);
  await metadata.close();
});

test("what another process has just written is never missing, and a refused commit shows why", async () => {
  const [ours, theirs] = [sqliteMetadata(folder.path), sqliteMetadata(folder.path)];
  const known = { kind: "known", parts: ["hub", "app"] } as const;
  const at = (lastSeenAt: number) => ({ put: known, value: { member: "m", lastSeenAt } }) as const;
  for (let turn = 0; turn < 50; turn++) {
    expect(await ours.get(known)).toBeUndefined();
    await theirs.commit([], [at(1)]);
    const first = await ours.get(known);
    expect(first?.value.lastSeenAt).toBe(1);
    await theirs.commit([], [at(2)]);
    // Now ours may remember the first.
    expect(await ours.commit([{ key: known, is: "version", version: first?.version ?? 0 }], [at(3)])).toBe(false);
    expect((await ours.get(known))?.value.lastSeenAt).toBe(2);
    await theirs.commit([], [{ remove: known }]);
    expect(await ours.commit([{ key: known, is: "present" }], [at(4)])).toBe(false);
    expect(await ours.get(known)).toBeUndefined();
  }
  await Promise.all([ours.close(), theirs.close()]);
});

test("what processes hand to each other is read as it is", async () => {
  const [ours, theirs] = [sqliteMetadata(folder.path), sqliteMetadata(folder.path)];
  for (let turn = 0; turn < 50; turn++) {
    await theirs.commit([], [putLease("a", turn)]);
    expect((await ours.get(lease("a")))?.value.expiresAt).toBe(turn);
  }
  await Promise.all([ours.close(), theirs.close()]);
});
