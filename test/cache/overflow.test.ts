import { randomBytes } from "node:crypto";
import { cached, localRegistry, orThrow, RegistryError, remoteRegistry } from "oci-manifold";
import type { BlobStore, Staged } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeUpstream, partBlobStore } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { bytesOf, eventually } from "../fixtures/read.js";
import { arrived, cacheBefore, corrupted, during, gate, scriptedSource } from "./scripted-source.js";

const held = 64 * 1024;
const bytes = randomBytes(600_000);
const full = () => new RegistryError("INSUFFICIENT_STORAGE", "the disk is full");

/** A blob store that takes so many bytes, in the step that a test names. */
function limited(free: number, step: "stage" | "append" | "commit" = "append", blobs: BlobStore = memoryStorage().blobs) {
  const disk = { free };
  const limit = (staged: Staged): Staged =>
    new Proxy(staged, {
      get(target, property) {
        if (property === "append" && step === "append") {
          return (source: AsyncIterable<Uint8Array>, o: Parameters<Staged["append"]>[1]) => {
            async function* fitting() {
              for await (const chunk of source) {
                while (disk.free < chunk.byteLength) if (!(await o?.makeRoom?.())) throw full();
                disk.free -= chunk.byteLength;
                yield chunk;
              }
            }
            return target.append(fitting(), o);
          };
        }
        if (property === "commit" && step === "commit") {
          return async (digest: Parameters<Staged["commit"]>[0]) => {
            if (disk.free < target.size) throw full();
            return target.commit(digest);
          };
        }
        const value: unknown = Reflect.get(target, property, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  const store: BlobStore = {
    ...blobs,
    async stage(id) {
      if (step === "stage" && disk.free === 0) throw full();
      return limit(await blobs.stage(id));
    },
  };
  return { store, disk, blobs };
}

const steps = [
  ["when it begins", 0, "stage"],
  ["at its first byte", 0, "append"],
  ["in the middle", 300_000, "append"],
  ["at its last bytes", 590_000, "append"],
  ["when it is taken over", 0, "commit"],
] as const;

describe.each([
  ["a store that reads what is staged", () => memoryStorage().blobs],
  ["an object store", () => partBlobStore()],
])("%s that is full", (_, make) => {
  test.each(steps)("%s passes the blob on to each reader, verified", async (_when, free, step) => {
    const { store, blobs } = limited(free, step, make());
    const { source, digest, requests } = scriptedSource(bytes);
    const { hub, clock, fills } = cacheBefore(source, { storage: { blobs: store, metadata: memoryStorage().metadata } });
    const wanted = [{}, { range: { start: 100, end: 400_000 } }, { range: { last: 7 } }, {}];
    const readers = await during(clock, Promise.all(wanted.map(async (o) => arrived(await hub.getBlob("app", digest, o)))));
    for (const [index, { bytes: got, error }] of readers.entries()) {
      expect(error).toBeUndefined();
      const part = index === 1 ? bytes.subarray(100, 400_001) : index === 2 ? bytes.subarray(-7) : bytes;
      // Past a store that was full from the start a range is ignored, as HTTP permits.
      expect(got.equals(part) || got.equals(bytes)).toBe(true);
    }
    expect(requests.every((question) => question.startsWith("GET"))).toBe(true);
    await eventually(async () => fills.length === 1, "told");
    expect(fills[0]?.error).toContain("not stored");
    await eventually(async () => (await blobs.listStaged({ limit: 1 })).items.length === 0, "freed");
    expect((await blobs.list({ limit: 1 })).items).toEqual([]);
    expect(await hub.status()).toMatchObject({ bytes: 0 });
    await hub.close();
  });

  test.each(steps)("%s gives nobody wrong bytes whole", async (_when, free, step) => {
    const { store, blobs } = limited(free, step, make());
    const { source, digest } = scriptedSource(bytes, () => ({ bytes: corrupted(bytes, 1000) }));
    const { hub, clock } = cacheBefore(source, { storage: { blobs: store, metadata: memoryStorage().metadata } });
    const readers = await during(
      clock,
      Promise.all([{}, { range: { start: 100, end: 500 } }].map(async (o) => arrived(await hub.getBlob("app", digest, o)))),
    );
    // This source cannot verify what passes through: where there never was a spool its bytes come as they are.
    if (step === "append" && free > 0) {
      expect(readers[0]?.error).toMatchObject({ code: "UNAVAILABLE" });
      expect(readers[0]?.bytes.byteLength).toBeLessThanOrEqual(bytes.byteLength - held);
      expect(readers[1]?.bytes.byteLength).toBe(0);
    }
    expect((await blobs.list({ limit: 1 })).items).toEqual([]);
    await hub.close();
  });
});

describe("a store that becomes full", () => {
  test("costs each reader one request for the rest, which starts where the spool ends", async () => {
    const { store } = limited(320_000);
    const { open, passed } = gate();
    const { source, digest, requests } = scriptedSource(bytes, ({ attempt }) => (attempt === 0 ? { holdAt: 300_000, until: passed } : {}));
    const { hub, clock } = cacheBefore(source, { storage: { blobs: store, metadata: memoryStorage().metadata } });
    const readers = [arrived(await hub.getBlob("app", digest)), arrived(await hub.getBlob("app", digest, { range: { start: 5000 } }))];
    await new Promise((resolve) => setTimeout(resolve, 20));
    open();
    const [first, second] = await during(clock, Promise.all(readers));
    expect(first?.bytes.equals(bytes)).toBe(true);
    expect(second?.bytes.equals(bytes.subarray(5000))).toBe(true);
    expect(requests[0]).toBe("GET");
    const rests = requests.slice(1).map((question) => Number(/\d+/.exec(question)?.[0]));
    expect(rests).toHaveLength(2);
    for (const rest of rests) expect(rest).toBeGreaterThanOrEqual(300_000);
    await hub.close();
  });

  test("lets a reader that goes on alone be cut, and resumes for it", async () => {
    const { store } = limited(320_000);
    const { open, passed } = gate();
    const { source, digest } = scriptedSource(bytes, ({ attempt }) =>
      attempt === 0 ? { holdAt: 300_000, until: passed } : attempt === 1 ? { cutAt: 450_000 } : {},
    );
    const { hub, clock } = cacheBefore(source, { storage: { blobs: store, metadata: memoryStorage().metadata } });
    const reader = arrived(await hub.getBlob("app", digest));
    await new Promise((resolve) => setTimeout(resolve, 20));
    open();
    expect((await during(clock, reader)).bytes.equals(bytes)).toBe(true);
    await hub.close();
  });

  test("gives up the source's stream at once when the reader that goes on alone leaves", async () => {
    const { store } = limited(320_000);
    const { open, passed } = gate();
    const { source, digest, streams } = scriptedSource(bytes, ({ attempt }) =>
      attempt === 0 ? { holdAt: 300_000, until: passed } : { holdAt: 500_000, until: new Promise(() => {}) },
    );
    const { hub, clock } = cacheBefore(source, { storage: { blobs: store, metadata: memoryStorage().metadata } });
    const { content } = orThrow(await hub.getBlob("app", digest));
    const reader = content.kind === "stream" ? content.open() : undefined;
    reader?.resume();
    await new Promise((resolve) => setTimeout(resolve, 20));
    open();
    await eventually(async () => streams.length === 2, "alone");
    await new Promise((resolve) => setTimeout(resolve, 20));
    reader?.destroy();
    await eventually(async () => streams[1]?.destroyed === true, "given up");
    await during(clock, hub.close());
  });

  test("evicts what was used longest ago before it overflows", async () => {
    const { store, disk, blobs } = limited(Number.POSITIVE_INFINITY);
    const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
    const image = await pushImage(origin, "app", "1", makeImage([400_000, 500_000]));
    const { hub, clock } = cacheBefore(origin, { storage: { blobs: store, metadata: memoryStorage().metadata } });
    const [first = "", second = ""] = image.layers.map(({ digest }) => digest);
    await bytesOf(await hub.getBlob("app", first));
    await clock.advance(120_000);
    disk.free = 100_000;
    const remove = blobs.delete.bind(blobs);
    store.delete = async (location) => {
      disk.free += 400_000;
      await remove(location);
    };
    expect((await bytesOf(await hub.getBlob("app", second))).byteLength).toBe(500_000);
    expect(await hub.status()).toMatchObject({ bytes: 500_000 });
    expect((await bytesOf(await hub.getBlob("app", first))).byteLength).toBe(400_000);
    await hub.close();
  });
});

describe("a blob above maxBlobBytes", () => {
  test("passes through: one request for each reader, the whole for a range, nothing stored", async () => {
    const upstream = await fakeUpstream();
    const { layers } = upstream.addImage("app", "1", { layers: [bytes, randomBytes(1000)] });
    const [large, small] = layers.map(({ digest }) => digest);
    const storage = memoryStorage();
    const hub = cached(remoteRegistry(upstream.url), { storage, name: "hub", maxBlobBytes: "100KiB" });
    orThrow(await hub.getManifest("app", "1"));
    await eventually(async () => (await hub.completeness("app", "1")).missing.length === 1, "the others came");
    expect(upstream.requests.filter(({ url }) => url.includes(large ?? "?"))).toEqual([]);
    for (const range of [undefined, { start: 10, end: 19 }]) {
      const lookup = await hub.getBlob("app", large ?? "", range && { range });
      expect(orThrow(lookup).range).toBeUndefined();
      expect((await bytesOf(lookup)).equals(bytes)).toBe(true);
    }
    const requests = upstream.requests.filter(({ url }) => url.includes(large ?? "?"));
    expect(requests.map(({ method, headers }) => `${method} ${headers.range ?? "whole"}`)).toEqual(["GET whole", "GET whole"]);
    expect(await hub.completeness("app", "1")).toMatchObject({ complete: false, missing: [{ digest: large }] });
    expect((await bytesOf(await hub.getBlob("app", small ?? ""))).byteLength).toBe(1000);
    await hub.close();
    await upstream.close();
  });

  test("that no manifest told of is found out from the answer; wrong bytes never come whole", async () => {
    const upstream = await fakeUpstream();
    const { digest } = upstream.addBlob("app", bytes);
    const storage = memoryStorage();
    const hub = cached(remoteRegistry(upstream.url), { storage, name: "hub", maxBlobBytes: "100KiB" });
    expect((await bytesOf(await hub.getBlob("app", digest))).equals(bytes)).toBe(true);
    upstream.intercept = () => ({ corrupt: true });
    const { error, bytes: got } = await arrived(await hub.getBlob("app", digest));
    expect(error).toMatchObject({ code: "UNAVAILABLE" });
    expect(got.byteLength).toBeLessThanOrEqual(bytes.byteLength - held);
    expect((await storage.blobs.list({ limit: 1 })).items).toEqual([]);
    await hub.close();
    await upstream.close();
  });

  test("and of unknown size is not stored either", async () => {
    const upstream = await fakeUpstream();
    const { digest } = upstream.addBlob("app", bytes);
    upstream.intercept = ({ method }) => (method === "GET" ? { dropContentLength: true } : undefined);
    const storage = memoryStorage();
    const hub = cached(remoteRegistry(upstream.url), { storage, name: "hub", maxBlobBytes: "100KiB" });
    expect((await bytesOf(await hub.getBlob("app", digest))).equals(bytes)).toBe(true);
    expect((await storage.blobs.list({ limit: 1 })).items).toEqual([]);
    await hub.close();
    await upstream.close();
  });
});

test("an upstream without sizes and a full disk: passed through, not cut short", async () => {
  const upstream = await fakeUpstream();
  const { digest } = upstream.addBlob("app", bytes);
  upstream.intercept = ({ method }) => (method === "GET" ? { dropContentLength: true } : undefined);
  const { store } = limited(300_000);
  const hub = cached(remoteRegistry(upstream.url), { storage: { blobs: store, metadata: memoryStorage().metadata }, name: "hub" });
  for (const o of [{}, { range: { start: 10 } }]) {
    expect((await bytesOf(await hub.getBlob("app", digest, o))).equals(bytes)).toBe(true);
  }
  await hub.close();
  await upstream.close();
});
