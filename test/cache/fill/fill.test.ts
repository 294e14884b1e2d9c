import { randomBytes } from "node:crypto";
import { type BlobContent, type ByteRange, cached, type Lookup, orThrow, remoteRegistry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeUpstream, partBlobStore } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { bytesOf, eventually } from "../../fixtures/read.js";
import { temporaryFolder } from "../../fixtures/temporary-folder.js";
import { arrived, cacheBefore, corrupted, during, gate, scriptedSource } from "../scripted-source.js";

const held = 64 * 1024;
const bytes = randomBytes(300_000);

/** Another way to the bytes, which notes what it is asked. */
function beside(give: (range: ByteRange | undefined) => Promise<Lookup<BlobContent>>) {
  const requests: string[] = [];
  const otherwise = (range: ByteRange | undefined) => {
    requests.push(range && "start" in range ? `${range.start}-` : "whole");
    return give(range);
  };
  return { requests, otherwise };
}

const storages = [
  ["memory", () => memoryStorage()],
  ["files", () => fileStorage(temporaryFolder())],
  ["an object store", () => ({ blobs: partBlobStore(), metadata: memoryStorage().metadata })],
] as const;

describe.each(storages)("in %s", (_, storage) => {
  test.each([
    ["sha256", 0],
    ["sha256", 1],
    ["sha256", held],
    ["sha256", held + 1],
    ["sha256", 1_000_000],
    ["sha512", held],
    ["sha512", 300_000],
  ] as const)("a %s blob of %i bytes comes whole, is kept, and is fetched once", async (algorithm, size) => {
    const blob = randomBytes(size);
    const { source, digest, requests } = scriptedSource(blob, undefined, { algorithm });
    const { hub, clock, fills, storage: kept } = cacheBefore(source, { storage: storage() });
    for (let attempt = 0; attempt < 2; attempt++) {
      const got = await during(clock, hub.getBlob("app", digest).then(bytesOf));
      expect(got.equals(blob)).toBe(true);
    }
    expect(requests).toEqual(["GET"]);
    await eventually(async () => fills.length > 0, "told");
    expect(fills).toMatchObject([{ bytes: size, digest }]);
    expect((await kept.blobs.list({ limit: 9 })).items).toMatchObject([{ size }]);
    expect((await kept.blobs.listStaged({ limit: 9 })).items).toEqual([]);
    expect(await hub.status()).toMatchObject({ bytes: size, fills: { running: 0 } });
    await hub.close();
  });

  test.each([held, 300_000])(
    "wrong bytes of %i from the only source reach nobody whole, and the next request starts anew",
    async (size) => {
      const blob = randomBytes(size);
      const { source, digest, requests } = scriptedSource(blob, ({ attempt }) => (attempt === 0 ? { bytes: corrupted(blob) } : {}));
      const { hub, clock, fills, storage: kept } = cacheBefore(source, { storage: storage() });
      const readers = await during(
        clock,
        Promise.all([{}, {}, { range: { start: 0, end: 9 } }].map(async (o) => arrived(await hub.getBlob("app", digest, o)))),
      );
      for (const { bytes: got, error } of readers) {
        expect(error).toMatchObject({ code: "UNAVAILABLE" });
        expect(got.byteLength).toBeLessThanOrEqual(Math.max(0, size - held));
      }
      expect(readers[2]?.bytes.byteLength).toBe(0);
      expect(requests).toEqual(["GET"]);
      expect(fills).toEqual([expect.objectContaining({ error: expect.stringContaining("other bytes") })]);
      expect((await kept.blobs.list({ limit: 1 })).items).toEqual([]);
      expect((await kept.blobs.listStaged({ limit: 1 })).items).toEqual([]);
      expect((await during(clock, hub.getBlob("app", digest).then(bytesOf))).equals(blob)).toBe(true);
      expect(requests).toEqual(["GET", "GET"]);
      await hub.close();
    },
  );
});

describe("wrong bytes", () => {
  test("of the first source are discarded, told, and asked of the next", async () => {
    const { source, digest, requests } = scriptedSource(bytes, () => ({ bytes: corrupted(bytes, 0) }));
    const other = beside((range) => scriptedSource(bytes).getBlob("app", digest, range && { range }));
    const { hub, clock, fills } = cacheBefore(source);
    const part = { ...other, range: { start: 299_000 } };
    expect((await during(clock, hub.getBlob("app", digest, part).then(bytesOf))).equals(bytes.subarray(299_000))).toBe(true);
    expect((await bytesOf(await hub.getBlob("app", digest))).equals(bytes)).toBe(true);
    expect(requests).toEqual(["GET"]);
    expect(other.requests).toEqual(["whole"]);
    expect(fills).toMatchObject([{ error: expect.stringContaining("other bytes") }, { bytes: bytes.byteLength }]);
    expect(fills[1]?.error).toBeUndefined();
  });

  test("of both are the end of it, told once for each", async () => {
    const wrong = corrupted(bytes, 0);
    const { source, digest } = scriptedSource(bytes, () => ({ bytes: wrong }));
    const other = beside((range) => scriptedSource(bytes, () => ({ bytes: wrong })).getBlob("app", digest, range && { range }));
    const { hub, clock, fills, storage } = cacheBefore(source);
    expect((await during(clock, hub.getBlob("app", digest, other).then(arrived))).error).toMatchObject({ code: "UNAVAILABLE" });
    expect(fills).toHaveLength(2);
    expect((await storage.blobs.list({ limit: 1 })).items).toEqual([]);
  });

  test("joined from two sources accuse neither: each is asked alone", async () => {
    // The first gives a wrong beginning and breaks off for good; the second has always been right.
    const { source, digest, requests } = scriptedSource(bytes, ({ start }) => ({ bytes: corrupted(bytes, 0), cutAt: start || 100_000 }));
    const other = beside((range) => scriptedSource(bytes).getBlob("app", digest, range && { range }));
    const { hub, clock, fills } = cacheBefore(source);
    const last = { ...other, range: { last: 5 } };
    expect((await during(clock, hub.getBlob("app", digest, last).then(bytesOf))).equals(bytes.subarray(-5))).toBe(true);
    expect(other.requests).toEqual(["100000-", "whole"]);
    expect(requests.length).toBeLessThanOrEqual(6);
    expect(fills.at(-1)?.error).toBeUndefined();
  });

  test("that are none at all end it: an empty answer is not asked for again and again", async () => {
    const { source, digest, requests } = scriptedSource(bytes, () => ({ bytes: Buffer.alloc(0), size: 0 }));
    const { hub, clock } = cacheBefore(source);
    expect((await during(clock, hub.getBlob("app", digest).then(arrived))).error).toMatchObject({ code: "UNAVAILABLE" });
    expect(requests).toEqual(["GET"]);
  });

  test("make the readers that have some of them fail; those who have none yet get the right ones", async () => {
    const { open, passed } = gate();
    const { source, digest } = scriptedSource(bytes, () => ({ bytes: corrupted(bytes, 200_000), holdAt: 200_000, until: passed }));
    const other = beside((range) => scriptedSource(bytes).getBlob("app", digest, range && { range }));
    const { hub, clock } = cacheBefore(source);
    const [ahead, behind, part] = [
      arrived(await hub.getBlob("app", digest, other)),
      hub.getBlob("app", digest),
      hub.getBlob("app", digest, { range: { start: 250_000, end: 250_009 } }),
    ];
    await new Promise((resolve) => setTimeout(resolve, 20));
    open();
    const late = behind.then(arrived);
    const first = await during(clock, ahead);
    expect(first.error).toMatchObject({ message: expect.stringContaining("ask again") });
    expect(first.bytes.byteLength).toBeLessThan(bytes.byteLength);
    expect((await during(clock, part.then(bytesOf))).equals(bytes.subarray(250_000, 250_010))).toBe(true);
    const { bytes: got, error } = await late;
    expect(error !== undefined || got.equals(bytes)).toBe(true);
  });
});

describe("a source that does not say how large a blob is", () => {
  test("is waited for to its end; a manifest that tells the size makes it stream", async () => {
    const upstream = await fakeUpstream();
    const { layers } = upstream.addImage("app", "1", { layers: [randomBytes(300_000), randomBytes(1000)] });
    upstream.intercept = ({ url }) => (url.includes("/blobs/") ? { dropContentLength: true } : undefined);
    for (const withManifest of [false, true]) {
      upstream.requests.length = 0;
      const hub = cached(remoteRegistry(upstream.url, { retries: 0 }), { storage: memoryStorage(), name: "hub" });
      if (withManifest) orThrow(await hub.getManifest("app", "1"));
      for (const { digest, size } of layers) {
        const lookup = await hub.getBlob("app", digest);
        expect(orThrow(lookup).descriptor.size).toBe(size);
        expect(digestOf(await bytesOf(lookup))).toBe(digest);
      }
      for (const { digest } of layers) {
        const requests = upstream.requests.filter(({ url }) => url.includes(digest));
        expect(requests.map(({ method }) => method)).toEqual(["GET"]);
      }
      await hub.close();
    }
    await upstream.close();
  });

  test("is resumed, and its ranges are answered when it has ended", async () => {
    const { source, digest, requests } = scriptedSource(bytes, ({ attempt }) => ({
      unsized: true,
      ...(attempt === 0 && { cutAt: 123_456 }),
    }));
    const { hub, clock } = cacheBefore(source);
    const part = await during(clock, hub.getBlob("app", digest, { range: { last: 10 } }));
    expect(orThrow(part)).toMatchObject({ range: { start: 299_990, end: 299_999, total: 300_000 }, descriptor: { size: 300_000 } });
    expect((await bytesOf(part)).equals(bytes.subarray(-10))).toBe(true);
    expect(requests).toEqual(["GET", "GET 123456-"]);
  });

  test("and sends wrong bytes has sent nothing", async () => {
    const { source, digest } = scriptedSource(bytes, () => ({ unsized: true, bytes: corrupted(bytes) }));
    const { hub, clock } = cacheBefore(source);
    expect(await during(clock, hub.getBlob("app", digest))).toMatchObject({ kind: "unavailable" });
  });
});
