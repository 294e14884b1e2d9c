import { collectGarbage } from "oci-manifold/maintenance";
import { fileStorage } from "oci-manifold/storage/files";
import { expect, test } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { fillBlobs } from "./many-blobs.js";
import { growthDuring } from "./memory.js";

/** One repository that takes several batches, and many of a usual size. */
const repositories = [200_000, ...Array.from({ length: 80 }, () => 10_000)];
const count = 1_000_000;
const live = 9500;

test("a million blobs are collected in bounded memory, and a dry run says the same beforehand", async () => {
  const storage = fileStorage(temporaryFolder());
  expect(await fillBlobs(storage, repositories, live)).toBe(count);
  // Nobody has content in hand that he could still open.
  const clock = { now: Date.now, elapsed: () => performance.now(), sleep: async () => {} };
  const garbage = (count / 10_000) * (10_000 - live);
  let dry: Awaited<ReturnType<typeof collectGarbage>> | undefined;
  let real: Awaited<ReturnType<typeof collectGarbage>> | undefined;
  let told = 0;
  const grown = await growthDuring(process.pid, async () => {
    dry = await collectGarbage(storage, { clock, dryRun: true });
  });
  const more = await growthDuring(process.pid, async () => {
    real = await collectGarbage(storage, { clock, progress: () => told++ });
  });
  expect(dry).toMatchObject({
    blobReferences: { checked: count, removed: garbage },
    blobs: { checked: count, removed: garbage },
    exact: true,
  });
  expect({ ...real, dryRun: true, removed: [] }).toEqual({ ...dry, removed: [] });
  expect(real?.omitted).toBe(2 * garbage - 1000);
  expect(told).toBeGreaterThan(1000);
  // A batch of 50,000 candidates and what V8 leaves lying about; all of them would take several times as much.
  expect(Math.max(grown, more)).toBeLessThan(250);
  await Promise.all([storage.metadata.close(), storage.blobs.close()]);
}, 1_200_000);
