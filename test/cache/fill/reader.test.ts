import { randomBytes } from "node:crypto";
import type { Readable } from "node:stream";
import { type BlobContent, type Lookup, orThrow } from "oci-manifold";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { partBlobStore } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { bytesOf, eventually } from "../../fixtures/read.js";
import { temporaryFolder } from "../../fixtures/temporary-folder.js";
import { arrived, cacheBefore, corrupted, gate, scriptedSource } from "../scripted-source.js";

const held = 64 * 1024;
const bytes = randomBytes(1_000_000);

function opened(lookup: Lookup<BlobContent>): Readable {
  const { content } = orThrow(lookup);
  if (content.kind !== "stream") throw new Error("expected a stream");
  return content.open();
}

const moment = () => new Promise((resolve) => setTimeout(resolve, 20));

const storages = [
  ["memory", () => memoryStorage()],
  ["files", () => fileStorage(temporaryFolder())],
  ["an object store", () => ({ blobs: partBlobStore(), metadata: memoryStorage().metadata })],
] as const;

describe.each(storages)("a fill into %s that waits in the middle", (_, storage) => {
  const halted = (o: { holdAt?: number; unverifiedRanges?: boolean; wrong?: boolean } = {}) => {
    const { open, passed } = gate();
    const { source, digest, requests } = scriptedSource(bytes, () => ({
      holdAt: o.holdAt ?? 500_000,
      until: passed,
      ...(o.wrong && { bytes: corrupted(bytes) }),
    }));
    const cache = cacheBefore(source, { storage: storage(), unverifiedRanges: o.unverifiedRanges ?? false });
    return { ...cache, open, digest, requests };
  };

  test("answers ranges in the middle, at the end and open ones once all is verified; those beyond the end at once", async () => {
    const { hub, digest, open, requests } = halted();
    const ranges = [{ start: 0, end: 0 }, { start: 400_000, end: 599_999 }, { last: 10 }, { start: 999_999 }, { last: 5_000_000 }];
    const lookups = await Promise.all(ranges.map((range) => hub.getBlob("app", digest, { range })));
    await expect(hub.getBlob("app", digest, { range: { start: 1_000_000 } })).rejects.toMatchObject({
      code: "RANGE_INVALID",
      detail: { total: 1_000_000 },
    });
    const reading = lookups.map((lookup) => bytesOf(lookup));
    await moment();
    open();
    const got = await Promise.all(reading);
    for (const [index, { range }] of lookups.map((lookup) => orThrow(lookup)).entries()) {
      if (!range) throw new Error("expected a range");
      expect(got[index]?.equals(bytes.subarray(range.start, range.end + 1))).toBe(true);
    }
    expect(requests).toEqual(["GET"]);
    await hub.close();
  });

  test("gives a part as soon as it is here where unverified ranges are allowed, the whole never", async () => {
    const { hub, digest, open } = halted({ unverifiedRanges: true, wrong: true });
    const part = await bytesOf(await hub.getBlob("app", digest, { range: { start: 1000, end: 200_000 } }));
    expect(part.equals(bytes.subarray(1000, 200_001))).toBe(true);
    const whole = arrived(await hub.getBlob("app", digest));
    const all = arrived(await hub.getBlob("app", digest, { range: { start: 0 } }));
    open();
    for (const { error, bytes: got } of await Promise.all([whole, all])) {
      expect(error).toMatchObject({ code: "UNAVAILABLE" });
      expect(got.byteLength).toBeLessThanOrEqual(bytes.byteLength - held);
    }
    await hub.close();
  });

  test("frees a reader that leaves at once, and goes on for the others", async () => {
    const { hub, digest, open } = halted();
    const leaving = opened(await hub.getBlob("app", digest));
    const never = await hub.getBlob("app", digest);
    const staying = bytesOf(await hub.getBlob("app", digest));
    leaving.resume();
    await moment();
    const closed = new Promise((resolve) => leaving.once("close", resolve));
    leaving.destroy();
    await closed;
    orThrow(never);
    open();
    expect((await staying).equals(bytes)).toBe(true);
    await hub.close();
  });

  test("is read on from the store by whoever is slower than it", async () => {
    const { hub, digest, open, storage: kept } = halted();
    const slow = opened(await hub.getBlob("app", digest));
    const unread = opened(await hub.getBlob("app", digest));
    const chunks: Uint8Array[] = [];
    const iterator: AsyncIterator<Uint8Array> = slow[Symbol.asyncIterator]();
    const first = await iterator.next();
    chunks.push(first.value);
    open();
    await eventually(async () => (await kept.blobs.list({ limit: 1 })).items.length === 1, "stored");
    await moment();
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) chunks.push(next.value);
    expect(Buffer.concat(chunks).equals(bytes)).toBe(true);
    const late: Uint8Array[] = [];
    for await (const chunk of unread) late.push(chunk);
    expect(Buffer.concat(late).equals(bytes)).toBe(true);
    await hub.close();
  });

  test("stops readers with its failure, also those that have not come as far", async () => {
    const { hub, digest, open, clock } = halted({ wrong: true });
    const readers = [{}, { range: { start: 999_000 } }, { range: { start: 10, end: 20 } }];
    const reading = await Promise.all(readers.map(async (o) => arrived(await hub.getBlob("app", digest, o))).map((one) => [one]));
    open();
    await clock.advance(0);
    for (const [one] of reading) expect((await one)?.error).toMatchObject({ code: "UNAVAILABLE" });
    await hub.close();
  });
});

test("a reader may leave in each phase, before its first byte and after its last", async () => {
  const { open, passed } = gate();
  const { source, digest } = scriptedSource(bytes, () => ({ holdAt: 500_000, until: passed }));
  const slowBlobs = memoryStorage();
  const commit = gate();
  const stage = slowBlobs.blobs.stage.bind(slowBlobs.blobs);
  slowBlobs.blobs.stage = async (id) => {
    const staged = await stage(id);
    const adopt = staged.commit.bind(staged);
    return Object.defineProperties(
      { ...staged },
      {
        size: { get: () => staged.size },
        state: { get: () => staged.state },
        commit: {
          value: async (wanted: typeof digest) => {
            await commit.passed;
            return adopt(wanted);
          },
        },
      },
    );
  };
  const { hub } = cacheBefore(source, { storage: slowBlobs });
  const leave = async (reader: Readable) => {
    const closed = new Promise((resolve) => reader.once("close", resolve));
    reader.destroy();
    await closed;
  };
  const staying = bytesOf(await hub.getBlob("app", digest));
  await leave(opened(await hub.getBlob("app", digest)));
  const filling = opened(await hub.getBlob("app", digest));
  filling.resume();
  await moment();
  await leave(filling);
  const adopting = opened(await hub.getBlob("app", digest));
  adopting.resume();
  open();
  await moment();
  await leave(adopting);
  const stored = opened(await hub.getBlob("app", digest));
  commit.open();
  await moment();
  await leave(stored);
  expect((await staying).equals(bytes)).toBe(true);
  const after = opened(await hub.getBlob("app", digest));
  for await (const _ of after) await Promise.resolve();
  after.destroy();
  await hub.close();
}, 5000);
