import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { localRegistry } from "oci-manifold";
import { fileStorage } from "oci-manifold/storage/files";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findSqliteDriver } from "../../src/storage/files/sqlite-driver.js";
import { sqliteMetadataOf } from "../../src/storage/files/sqlite-metadata.js";
import { currentFormat, formats } from "../../src/storage/sql/formats.js";
import { formatFolder, pullEverything, storedFormats } from "../fixtures/formats.js";
import { pushImage } from "../fixtures/images.js";
import { additive, incompatible, lease, putLease } from "./neighbours.js";
import { checkOldReferrers, oldRows } from "./old-referrers.js";
import { temporaryFolder } from "./temporary-folder.js";

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => folder.remove());

const database = () => findSqliteDriver().open(join(folder.path, "metadata.sqlite"));
const stored = () => {
  const open = database();
  const row = open.prepare("SELECT * FROM format").get();
  open.close();
  return row;
};
const current = currentFormat(formats).version;

test("the current format has its fixture, as every one before", () => {
  expect(storedFormats).toEqual(formats.map(({ version }) => version));
});

test("formats are numbered one after the other, and each says which older ones may go on", () => {
  expect(formats.map(({ version }) => version)).toEqual(formats.map((_, index) => index + 1));
  for (const { version, oldest } of formats.slice(2)) expect([oldest !== undefined, (oldest ?? 0) <= version]).toEqual([true, true]);
});

describe.each(storedFormats)("what format %i left", (version) => {
  test("is pulled byte for byte, before and after a restart, and takes pushes", async () => {
    await cp(formatFolder(version), folder.path, { recursive: true });
    for (let start = 0; start < 2; start++) {
      const storage = fileStorage(folder.path);
      await pullEverything(version, storage);
      await pushImage(localRegistry({ storage, name: "release" }), "team/new", `${start}`);
      await Promise.all([storage.metadata.close(), storage.blobs.close()]);
    }
    expect(stored()).toMatchObject({ version: current });
  });
});

test("referrers that format 3 left are found by their types, and long annotations in their manifests", async () => {
  await cp(formatFolder(3), folder.path, { recursive: true });
  const open = database();
  const { last } = open.prepare("SELECT last FROM sequence").get() as { last: number };
  const rows = oldRows(last + 1);
  for (const { kind, key, value, version, bytes } of rows) {
    open.prepare("INSERT INTO records (kind, key, value, version) VALUES (?, ?, ?, ?)").run(kind, key, value, version);
    if (bytes) open.prepare("INSERT INTO contents (version, bytes) VALUES (?, ?)").run(version, bytes);
  }
  open.exec(`UPDATE sequence SET last = ${last + rows.length}`);
  open.close();
  await checkOldReferrers(fileStorage(folder.path));
});

/** A driver whose database fails at a statement. */
const failingAt = fileURLToPath(new URL("./drivers/failing.cjs", import.meta.url));

test.each([
  ["in the first step", "UPDATE records SET key", 1],
  ["between the steps", "ADD COLUMN oldest", 2],
  ["in the last step", "referrerByType", 3],
])("a migration that ends %s goes on at the next start", async (_, statement, left) => {
  await cp(formatFolder(1), folder.path, { recursive: true });
  await writeFile(join(folder.path, "failing"), statement);
  const broken = fileStorage(folder.path, { driver: failingAt });
  await expect(broken.metadata.ready()).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("killed") });
  expect(stored()).toMatchObject({ version: left });
  await pullEverything(1, fileStorage(folder.path));
  expect(stored()).toMatchObject({ version: current });
});

test("a neighbour that is one version newer and only adds works beside this one", async () => {
  const old = sqliteMetadataOf(formats, folder.path);
  await old.commit([], [putLease("a", 1)]);
  const newer = sqliteMetadataOf(additive, folder.path);
  await newer.commit([{ key: lease("a"), is: "present" }], [putLease("b", 2)]);
  expect(stored()).toMatchObject({ version: current + 1, oldest: current });
  await old.commit([], [putLease("c", 3)]);
  // Started again, it still is welcome, and brings nothing back.
  const again = sqliteMetadataOf(formats, folder.path);
  for (const metadata of [old, newer, again])
    await expect.poll(() => metadata.names({ kind: "lease", under: [], limit: 9 })).toEqual(["a", "b", "c"]);
  expect(stored()).toMatchObject({ version: current + 1, oldest: current });
  for (const metadata of [old, newer, again]) await metadata.close();
});

test("an incompatible newer format is refused, and nothing is written", async () => {
  const running = sqliteMetadataOf(formats, folder.path);
  await running.commit([], [putLease("a", 1)]);
  const newer = sqliteMetadataOf(incompatible, folder.path);
  await newer.ready();
  const refusal = { code: "UNAVAILABLE", message: expect.stringMatching(/newer version.*update oci-manifold/) };
  const late = sqliteMetadataOf(formats, folder.path);
  await expect(late.ready()).rejects.toMatchObject(refusal);
  await expect(late.commit([], [putLease("b", 1)])).rejects.toMatchObject(refusal);
  // One that was open before is not asked to stop, but can do no damage.
  await expect(running.commit([], [putLease("c", 1)])).rejects.toMatchObject(refusal);
  expect(await newer.names({ kind: "lease", under: [], limit: 9 })).toEqual(["a"]);
  for (const metadata of [running, newer, late]) await metadata.close();
});
