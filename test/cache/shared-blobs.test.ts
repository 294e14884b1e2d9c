import { randomBytes } from "node:crypto";
import { aggregate, cached, localRegistry, mediaTypes } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { evictFor } from "../../src/core/eviction.js";
import { bytesOf, eventually } from "../fixtures/read.js";

/** A shared storage where `secret/app` of a local registry has a blob that a manifest at the upstream only names. */
async function named() {
  const storage = memoryStorage();
  const upstream = localRegistry({ storage: memoryStorage(), name: "upstream", sparse: true });
  const hub = cached(upstream, { storage, name: "hub" });
  const local = localRegistry({ storage, name: "release" });
  const all = aggregate({ local, connectors: [{ name: "hub", source: hub }] });
  const secret = randomBytes(30_000);
  const digest = digestOf(secret);
  await all.putBlob("secret/app", { digest }, chunksOf(secret));
  const config = Buffer.from("{}");
  const configDigest = digestOf(config);
  await upstream.putBlob("evil/app", { digest: configDigest }, chunksOf(config));
  const manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: configDigest, size: config.length },
    layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar", digest, size: secret.length }],
  };
  const bytes = Buffer.from(JSON.stringify(manifest));
  await upstream.putManifest("evil/app", "x", { bytes });
  expect((await all.getManifest("evil/app", "x")).kind).toBe("found");
  return { storage, hub, local, all, digest, bytes };
}

test("what a manifest only names is no proof: not for a mount, not for a push, not for another cache of the storage", async () => {
  const { storage, hub, local, all, digest, bytes } = await named();
  expect((await hub.resolveBlob("evil/app", digest)).kind).toBe("absent");
  expect(await all.mountBlob("mine", digest, { registry: all, repository: "evil/app" })).toBeUndefined();
  expect(await local.mountBlob("mine", digest, { registry: hub, repository: "evil/app" })).toBeUndefined();
  await expect(all.putManifest("evil/app", "mine", { bytes })).rejects.toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
  const outer = cached(hub, { storage, name: "outer" });
  await outer.getManifest("evil/app", "x");
  expect((await outer.getBlob("evil/app", digest)).kind).toBe("absent");
  for (const repository of ["mine", "evil/app"]) expect((await all.getBlob(repository, digest)).kind).toBe("absent");
});

test("whatever a connector is called, what was pushed here is evicted by no cache", async () => {
  const storage = memoryStorage();
  const clock = fakeClock();
  const bytes = randomBytes(70_000);
  const digest = digestOf(bytes);
  const upstream = localRegistry({ storage: memoryStorage(), name: "upstream" });
  await upstream.putBlob("lib/x", { digest }, chunksOf(bytes));
  const hub = cached(upstream, { storage, name: "hub", clock });
  const local = localRegistry({ storage, name: "release", clock });
  const all = aggregate({ local, connectors: [{ name: "source", source: hub, copyToLocal: "never" }], clock });
  expect(await all.mountBlob("a/app", digest, { registry: all, repository: "lib/x" })).toBeDefined();
  await all.putBlob("b/app", { digest }, chunksOf(bytes));
  await bytesOf(await all.getBlob("lib/x", digest));
  await clock.advance(7_200_000);
  await evictFor(storage.blobs, 1);
  expect((await bytesOf(await local.getBlob("b/app", digest))).equals(bytes)).toBe(true);
});

test("of two caches that give a blob up at the same time, one keeps it or its bytes go", async () => {
  const storage = memoryStorage();
  const clock = fakeClock();
  const upstream = localRegistry({ storage: memoryStorage(), name: "upstream" });
  const put = async () => {
    const bytes = randomBytes(70_000);
    return (await upstream.putBlob("app", { digest: digestOf(bytes) }, chunksOf(bytes))).digest;
  };
  const [first, second] = [await put(), await put()];
  const caches = ["a", "b"].map((name) => cached(upstream, { storage, name, clock, maxBytes: "100KiB", keepFree: 0 }));
  for (const cache of caches) await bytesOf(await cache.getBlob("app", first));
  await clock.advance(7_200_000);
  await Promise.all(caches.map(async (cache) => bytesOf(await cache.getBlob("app", second))));
  await eventually(async () => {
    const owners = await Promise.all(["a", "b"].map((name) => storage.metadata.get({ kind: "cachedBlob", parts: [name, first] })));
    const blob = await storage.metadata.get({ kind: "blob", parts: [first] });
    return blob === undefined || owners.some((owner) => owner !== undefined);
  }, "owned or gone");
});

test("a full volume frees what several parts of a cache have, once none of them used it lately", async () => {
  const storage = memoryStorage();
  const clock = fakeClock();
  const bytes = randomBytes(70_000);
  const digest = digestOf(bytes);
  const upstream = localRegistry({ storage: memoryStorage(), name: "upstream" });
  await upstream.putBlob("app", { digest }, chunksOf(bytes));
  const hub = cached(upstream, { storage, name: "hub", clock, partition: (caller) => caller?.name ?? "" });
  for (const name of ["ann", "bob"]) await bytesOf(await hub.getBlob("app", digest, { caller: { name } }));
  expect(await evictFor(storage.blobs, 1)).toBe(false);
  await clock.advance(7_200_000);
  expect(await evictFor(storage.blobs, 1)).toBe(true);
  expect((await storage.blobs.list({ limit: 9 })).items).toEqual([]);
  for (const name of ["ann", "bob"]) {
    expect((await bytesOf(await hub.getBlob("app", digest, { caller: { name } }))).equals(bytes)).toBe(true);
  }
});
