import { chunksOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { expect, test } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { recorder } from "../http/support.js";

const staged = async (freeSpaceWarning: number | undefined, times: number) => {
  const events = recorder();
  const { blobs } = fileStorage(temporaryFolder(), { events, ...(freeSpaceWarning !== undefined && { freeSpaceWarning }) });
  for (let at = 0; at < times; at++) await (await blobs.stage(`upload-${at}`)).append(chunksOf(Buffer.from("x")));
  // The look at the disk is behind these in the same queue.
  await blobs.space?.();
  await blobs.close();
  return events.of("fault").map(({ message }) => message);
};

test("a host is warned once before the disk is full, and told where and how much is left", async () => {
  // No disk has more free than it has.
  expect(await staged(1, 3)).toEqual([expect.stringMatching(/^only \d+ MB of \d+ MB are free at \//)]);
});

test("a disk with room enough, and a host that does not want to know, are not warned", async () => {
  expect(await staged(0, 2)).toEqual([]);
  expect(await staged(0.000_001, 2)).toEqual([]);
});

test.each([-0.1, 1.5, Number.NaN])("%s is no part of a volume", (freeSpaceWarning) => {
  expect(() => fileStorage("unused", { freeSpaceWarning })).toThrow("freeSpaceWarning is a number from 0 to 1");
});
