import { randomBytes } from "node:crypto";
import { cached, localRegistry, type Registry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { fileBlobStore, fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { blobStoreContract, fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { bytesOf, eventually } from "../fixtures/read.js";
import { site } from "../http/support.js";
import { startUpload, uploadUrl, withDigest } from "../interop/http.js";
import { onSmallDisks, SmallDisk } from "./small-disk.js";

const MiB = 1024 * 1024;

async function originOf(sizes: readonly number[]) {
  const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
  const blobs = sizes.map((size) => randomBytes(size));
  const digests: string[] = [];
  for (const bytes of blobs) digests.push((await origin.putBlob("app", { digest: digestOf(bytes) }, chunksOf(bytes))).digest);
  return { origin, blobs, digests };
}

const same = async (registry: Registry, repository: string, digest: string, o = {}) =>
  digestOf(await bytesOf(await registry.getBlob(repository, digest, o))) === digest;

onSmallDisks("a blob store on a disk that is full", () => {
  const on = (disk: SmallDisk) => ({ store: fileBlobStore(disk.dir), dispose: async () => {} });
  const createFull = async () => {
    const disk = new SmallDisk(4);
    const full = on(disk);
    await full.store.ready();
    disk.fill(0);
    return { ...full, free: async () => disk.clear() };
  };
  blobStoreContract({ test, capabilities: { readStaged: true }, create: async () => on(new SmallDisk(64)), createFull });
});

onSmallDisks("a disk that is full", () => {
  test.each([
    ["its blobs", (dir: string) => ({ blobs: fileBlobStore(dir), metadata: memoryStorage().metadata })],
    ["its blobs and records", (dir: string) => fileStorage(dir)],
  ])("of a cache with %s on it: what is pulled passes through, byte for byte", async (_, storageIn) => {
    const disk = new SmallDisk(16);
    const { origin, blobs, digests } = await originOf([8 * MiB, 3 * MiB, 1000, 0]);
    const storage = storageIn(disk.dir);
    const hub = cached(origin, { storage, name: "hub", keepFree: 0 });
    await hub.ready();
    for (const leaving of [0, 100_000, 2 * MiB]) {
      disk.clear();
      disk.fill(leaving);
      for (const [index, digest] of digests.entries()) {
        if ((blobs[index]?.byteLength ?? 0) > 1000 || leaving === 0) expect(await same(hub, "app", digest)).toBe(true);
      }
      const parts = await Promise.all([0, 1, 2].map(() => same(hub, "app", digests[0] ?? "")));
      expect(parts).toEqual([true, true, true]);
    }
    await eventually(async () => (await storage.blobs.listStaged({ limit: 9 })).items.length === 0, "freed");
    disk.clear();
    expect(await same(hub, "app", digests[0] ?? "")).toBe(true);
    expect((await storage.blobs.list({ limit: 9 })).items.map(({ size }) => size)).toContain(8 * MiB);
    await hub.close();
  });

  test("of a cache: what was used longest ago makes room for what is pulled", async () => {
    const disk = new SmallDisk(24);
    const clock = fakeClock();
    const { origin, digests } = await originOf([4 * MiB, 4 * MiB, 6 * MiB]);
    const storage = fileStorage(disk.dir);
    const hub = cached(origin, { storage, name: "hub", keepFree: 0, clock });
    const [first = "", second = "", third = ""] = digests;
    expect(await same(hub, "app", first)).toBe(true);
    await clock.advance(60_001);
    expect(await same(hub, "app", second)).toBe(true);
    await clock.advance(120_000);
    disk.fill(3 * MiB);
    expect(await same(hub, "app", third)).toBe(true);
    await eventually(async () => (await hub.resolveBlob("app", third)).kind === "found", "stored");
    const sizes = (await storage.blobs.list({ limit: 9 })).items.map(({ size }) => size / MiB).sort();
    expect(sizes).toEqual([4, 6]);
    expect(await hub.status()).toMatchObject({ bytes: 10 * MiB });
    for (const digest of digests) expect(await same(hub, "app", digest)).toBe(true);
    await hub.close();
  });

  test("of a push: caches give way, then it is refused, and goes on when there is space again; nothing acknowledged is lost", async () => {
    const disk = new SmallDisk(32);
    const clock = fakeClock();
    const { origin, digests } = await originOf([4 * MiB, 4 * MiB]);
    const storage = fileStorage(disk.dir);
    const hub = cached(origin, { storage, name: "hub", keepFree: 0, clock });
    const release = localRegistry({ storage, name: "release", clock });
    const { url } = await site(release);
    for (const digest of digests) expect(await same(hub, "app", digest)).toBe(true);
    const acknowledged = randomBytes(2 * MiB);
    await release.putBlob("app", { digest: digestOf(acknowledged) }, chunksOf(acknowledged));
    await clock.advance(120_000);

    disk.fill(1 * MiB);
    const evicting = randomBytes(6 * MiB);
    const pushed = await fetch(withDigest(await startUpload(url, "app"), digestOf(evicting)), { method: "PUT", body: evicting });
    expect(pushed.status).toBe(201);
    expect((await storage.blobs.list({ limit: 9 })).items.map(({ size }) => size / MiB).sort()).toEqual([2, 6]);

    disk.fill(2 * MiB);
    const layer = randomBytes(5 * MiB);
    const upload = await startUpload(url, "app");
    const refused = await fetch(upload, { method: "PATCH", body: layer });
    expect(refused.status).toBe(507);
    expect(await refused.json()).toMatchObject({
      errors: [{ code: "INSUFFICIENT_STORAGE", message: expect.stringMatching(/disk is full.*try again/) }],
    });
    disk.clear();
    const status = await fetch(upload);
    const next = uploadUrl(url, status, 204);
    const offset = Number(/-(\d+)$/.exec(status.headers.get("range") ?? "")?.[1] ?? -1) + 1;
    expect(offset).toBeGreaterThan(0);
    const rest = await fetch(next, {
      method: "PATCH",
      body: layer.subarray(offset),
      headers: { "content-range": `${offset}-${layer.byteLength - 1}` },
    });
    const done = await fetch(withDigest(uploadUrl(url, rest, 202), digestOf(layer)), { method: "PUT" });
    expect(done.status).toBe(201);

    for (const bytes of [acknowledged, evicting, layer]) expect(await same(release, "app", digestOf(bytes))).toBe(true);
    for (const digest of digests) expect(await same(hub, "app", digest)).toBe(true);
    await hub.close();
    await release.close();
  });
});
