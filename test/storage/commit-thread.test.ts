import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { sqliteMetadata } from "oci-manifold/storage/files";
import { afterEach, beforeEach, expect, test } from "vitest";
import { eventually } from "../fixtures/read.js";
import { temporaryFolder } from "./temporary-folder.js";

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => folder.remove());

const driver = (name: string) => fileURLToPath(new URL(`./drivers/${name}.cjs`, import.meta.url));
const file = (name: string) => join(folder.path, name);
const exists = (name: string) =>
  readFile(file(name)).then(
    () => true,
    () => false,
  );
const known = (name: string) => ({ kind: "known", parts: ["hub", name] }) as const;
const put = (name: string, lastSeenAt: number) => ({ put: known(name), value: { member: "m", lastSeenAt } }) as const;

test("while a commit waits for the disk, turns pass, reads answer what was before, and its own answer comes after", async () => {
  const metadata = sqliteMetadata(folder.path, { driver: driver("holding") });
  await metadata.commit([], [put("a", 1), put("b", 1)]);
  await metadata.get(known("a"));
  await writeFile(file("hold"), "");
  let answered = false;
  const committing = metadata.commit([], [put("a", 2), put("b", 2), put("c", 2)]).then((committed) => {
    answered = true;
    return committed;
  });
  await eventually(() => exists("held"), "held");
  for (let turn = 0; turn < 100; turn++) {
    await nextTurn();
    expect((await metadata.get(known("a")))?.value.lastSeenAt).toBe(1);
    expect(await metadata.names({ kind: "known", under: ["hub"], limit: 9 })).toEqual(["a", "b"]);
  }
  expect(answered).toBe(false);
  await rm(file("hold"));
  expect(await committing).toBe(true);
  expect((await metadata.get(known("a")))?.value.lastSeenAt).toBe(2);
  expect(await metadata.names({ kind: "known", under: ["hub"], limit: 9 })).toEqual(["a", "b", "c"]);
  await metadata.close();
});

test("commits that come while one waits for the disk share the next transaction", async () => {
  const metadata = sqliteMetadata(folder.path, { driver: driver("holding") });
  await metadata.ready();
  await writeFile(file("hold"), "");
  const first = metadata.commit([], [put("a", 1)]);
  await eventually(() => exists("held"), "held");
  const others = Array.from({ length: 20 }, (_, index) => metadata.commit([{ key: known("a"), is: "present" }], [put(`b${index}`, 1)]));
  await rm(file("hold"));
  expect(await Promise.all([first, ...others])).toEqual(Array(21).fill(true));
  await metadata.close();
});

test("what is in memory outlives commits of the same process to other records", async () => {
  const metadata = sqliteMetadata(folder.path, { driver: driver("recording") });
  await metadata.commit([], [put("a", 1), put("b", 1)]);
  await metadata.get(known("a"));
  const reads = async () => (await readFile(file("executed"), "utf8")).split("\n").filter((sql) => sql.startsWith("SELECT value,")).length;
  const before = await reads();
  for (let round = 0; round < 10; round++) {
    await metadata.commit([], [put("b", round)]);
    // Longer than others' changes may go unseen, so that they are looked for.
    await new Promise((resolve) => setTimeout(resolve, 25));
    expect((await metadata.get(known("a")))?.value.lastSeenAt).toBe(1);
  }
  expect(await reads()).toBe(before);
  await metadata.close();
});

test.each([
  ["before", 1],
  ["after", 2],
])(
  "a thread that ends %s its database committed: the commit fails, reads say what is, and the next has a new thread",
  async (when, left) => {
    const metadata = sqliteMetadata(folder.path, { driver: driver("ending") });
    await metadata.commit([], [put("a", 1)]);
    await metadata.get(known("a"));
    await writeFile(file(when), "");
    const outcomes = await Promise.allSettled([metadata.commit([], [put("a", 2)]), metadata.commit([], [put("b", 2)])]);
    const unavailable = { code: "UNAVAILABLE", retryAfter: 1, message: expect.stringMatching(/thread.*ended.*try again/) };
    expect(outcomes).toMatchObject([{ reason: unavailable }, { reason: unavailable }]);
    expect((await metadata.get(known("a")))?.value.lastSeenAt).toBe(left);
    await rm(file(when));
    expect(await metadata.commit([], [put("a", 3)])).toBe(true);
    expect((await metadata.get(known("a")))?.value.lastSeenAt).toBe(3);
    await metadata.close();
  },
);

test("bytes that lie in a larger buffer are committed as they are, and stay the caller's", async () => {
  const metadata = sqliteMetadata(folder.path);
  const key = { kind: "manifest", parts: ["release", "app", "sha256:x"] } as const;
  const pool = Buffer.from("before{}after");
  const bytes = pool.subarray(6, 8);
  await metadata.commit([], [{ put: key, value: { mediaType: "a/b", pushedAt: 1 }, bytes }]);
  expect(pool.toString()).toBe("before{}after");
  expect(Buffer.from((await metadata.get(key))?.bytes ?? []).toString()).toBe("{}");
  await metadata.close();
});

test("a driver is named by a package, a path or a URL; one that does not fit says why", async () => {
  for (const named of ["libsql", driver("recording"), new URL("./drivers/recording.cjs", import.meta.url).href]) {
    const metadata = sqliteMetadata(folder.path, { driver: named });
    expect(await metadata.commit([], [put("a", 1)])).toBe(true);
    await metadata.close();
  }
  for (const [named, message] of [
    ["no-such-package", /no-such-package cannot be loaded/],
    [driver("hooked"), /exports no class/],
  ] as const) {
    const metadata = sqliteMetadata(folder.path, { driver: named });
    await expect(metadata.ready()).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringMatching(message) });
    await metadata.close();
  }
});

test("a commit of many thousands is one transaction, and turns pass while it is sent", async () => {
  const metadata = sqliteMetadata(folder.path);
  const names = Array.from({ length: 20_000 }, (_, index) => `n${String(index).padStart(5, "0")}`);
  const key = { kind: "manifest", parts: ["release", "app", "sha256:x"] } as const;
  const bytes = Buffer.from("{}");
  const changes = [...names.map((name) => put(name, 1)), { put: key, value: { mediaType: "a/b", pushedAt: 1 }, bytes }];
  expect(await metadata.commit([{ key: known("none"), is: "present" }], changes)).toBe(false);
  expect(await metadata.names({ kind: "known", under: ["hub"], limit: 1 })).toEqual([]);
  let turns = 0;
  let over = false;
  const count = (): void => {
    turns++;
    if (!over) setImmediate(count);
  };
  count();
  expect(await metadata.commit([{ key: known("none"), is: "absent" }], changes)).toBe(true);
  over = true;
  expect(turns).toBeGreaterThan(30);
  expect(await metadata.names({ kind: "known", under: ["hub"], limit: 100_000 })).toEqual(names);
  expect((await metadata.get(key))?.bytes).toEqual(new Uint8Array(bytes));
  await metadata.close();
});

test("a page of many thousands is read in many turns", async () => {
  const metadata = sqliteMetadata(folder.path);
  const names = Array.from({ length: 20_000 }, (_, index) => `n${String(index).padStart(5, "0")}`);
  await metadata.commit(
    [],
    names.map((name) => put(name, 1)),
  );
  const range = { kind: "known", under: ["hub"], limit: 100_000 } as const;
  let turns = 0;
  let over = false;
  const count = (): void => {
    turns++;
    if (!over) setImmediate(count);
  };
  count();
  expect((await metadata.page(range)).map(({ key }) => key.parts[1])).toEqual(names);
  const paged = turns;
  expect(await metadata.names(range)).toEqual(names);
  over = true;
  // Two slices of 500 rows fit into a turn.
  expect([paged >= 20, turns - paged > 2]).toEqual([true, true]);
  await metadata.close();
});
