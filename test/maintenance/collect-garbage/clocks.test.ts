import { randomBytes } from "node:crypto";
import { type Clock, localRegistry, type Storage } from "oci-manifold";
import { chunksOf, digestOf, type MetadataStore } from "oci-manifold/extend";
import { collectGarbage } from "oci-manifold/maintenance";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { s3BlobStore } from "oci-manifold/storage/s3";
import { expect, onTestFinished, test } from "vitest";
import { FakeS3, fakeSdk } from "../../storage/fake-s3.js";
import { agreeingPool, hookedPool } from "../../storage/postgres-pools.js";
import { temporaryFolder } from "../../storage/temporary-folder.js";

const hour = 3_600_000;
/** A clock that is wrong by so many hours, whose sleeps are over at once. */
const wrongBy = (hours: number): Clock => ({
  now: () => Date.now() + hours * hour,
  elapsed: () => performance.now(),
  sleep: async () => {},
});

async function filesStorage(): Promise<Storage> {
  const folder = await temporaryFolder();
  const storage = fileStorage(folder.path);
  onTestFinished(async () => {
    await storage.metadata.close();
    await folder.remove();
  });
  return storage;
}

function s3Storage() {
  const client = new FakeS3();
  return { client, storage: { blobs: s3BlobStore({ client, sdk: fakeSdk, bucket: "images" }), metadata: memoryStorage().metadata } };
}

/** A layer that a push relies on, whose manifest is still to come. */
async function pushedLayer(storage: Storage) {
  const registry = localRegistry({ storage, name: "release" });
  await registry.ready();
  const bytes = randomBytes(1000);
  await registry.putBlob("app", { digest: digestOf(bytes) }, chunksOf(bytes));
  return async () => (await registry.resolveBlob("app", digestOf(bytes))).kind;
}

test.each([
  ["files", 26, "26 hours ahead of", filesStorage],
  ["files", -26, "26 hours behind", filesStorage],
  ["objects", 26, "26 hours ahead of", async () => s3Storage().storage],
  ["objects", 0.2, "12 minutes ahead of", async () => s3Storage().storage],
])("a collector whose clock disagrees with the times of %s, by %d hours, is refused and takes nothing", async (_, hours, words, open) => {
  const storage = await open();
  const layer = await pushedLayer(storage);
  await expect(collectGarbage(storage, { clock: wrongBy(hours) })).rejects.toMatchObject({
    code: "PRECONDITION_FAILED",
    message: expect.stringContaining(`the clock of this machine is ${words} the times that the blob store gives`),
  });
  await expect(collectGarbage(storage, { clock: wrongBy(hours), dryRun: true })).rejects.toMatchObject({ code: "PRECONDITION_FAILED" });
  expect(await layer()).toBe("found");
});

test("so is one whose object store is wrong, with the machine's own clock", async () => {
  const { client, storage } = s3Storage();
  client.now = () => Date.now() - 26 * hour;
  await expect(collectGarbage(storage)).rejects.toMatchObject({ message: expect.stringContaining("26 hours ahead of") });
});

test("clocks that differ by minutes, as without NTP, collect; and what was asked for the time is gone", async () => {
  const { client, storage } = s3Storage();
  const layer = await pushedLayer(storage);
  const before = [...client.objects.keys()];
  await collectGarbage(storage, { clock: wrongBy(4 / 60) });
  expect([...client.objects.keys()]).toEqual(before);
  expect(await layer()).toBe("found");
  const files = await filesStorage();
  await collectGarbage(files, { clock: wrongBy(-4 / 60) });
});

/** Records in memory, with the time of a server. */
function served(now: () => number): MetadataStore {
  return { ...memoryStorage().metadata, now: async () => now() };
}

test("the clock of the metadata store counts, not that of the machine that collects", async () => {
  const blobs = s3Storage().storage.blobs;
  let later = 0;
  const storage = { blobs, metadata: served(() => Date.now() + later) };
  const layer = await pushedLayer(storage);
  await collectGarbage(storage, { clock: wrongBy(26) });
  expect(await layer()).toBe("found");
  // An hour later by every clock but the machine's, which stands still.
  later = 27 * hour;
  const { now: _, ...timeless } = blobs;
  await collectGarbage({ ...storage, blobs: timeless }, { clock: wrongBy(-26) });
  expect(await layer()).toBe("absent");
});

test("and has to agree with the times of the objects, too", async () => {
  const storage = { blobs: s3Storage().storage.blobs, metadata: served(() => Date.now() + 26 * hour) };
  await expect(collectGarbage(storage)).rejects.toMatchObject({
    code: "PRECONDITION_FAILED",
    message: expect.stringContaining("the clock of the metadata store is 26 hours ahead of"),
  });
});

test("PostgreSQL is asked for its time, however the driver gives whole numbers", async () => {
  for (const now of ["1767225600000", 1767225600000, 1767225600000n]) {
    const pool = hookedPool(agreeingPool(), async (text, run) => (text.includes("clock_timestamp") ? { rows: [{ now }] } : run()));
    expect(await postgresMetadata({ pool }).now?.()).toBe(Date.UTC(2026, 0, 1));
  }
});
