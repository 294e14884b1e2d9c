// What users of other registries that cache suffer from: one test for each complaint that caching can answer, by number.
import { cached, type Descriptor, orThrow } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { bytesOf, eventually } from "../fixtures/read.js";
import { site } from "../http/support.js";
import { caching, failing, gate, minutes, settled, whole } from "./support.js";

test.each([
  ["5xx or no connection", failing("UNAVAILABLE")],
  ["429", failing("TOOMANYREQUESTS")],
  ["401", failing("UNAUTHORIZED")],
  ["403", failing("DENIED")],
])("pain 5: %s upstream breaks no pull of what is here, from the first one on", async (_, failure) => {
  const { hub, origin, switchOff, clock, restart } = caching();
  const image = await pushImage(origin, "app", "1");
  orThrow(await hub.getManifest("app", "1"));
  await whole(hub, "app", "1");
  switchOff(failure);
  await clock.advance(minutes(60));
  for (const cache of [hub, restart()]) {
    expect(orThrow(await cache.getManifest("app", "1")).descriptor.digest).toBe(image.digest);
    for (const digest of image.blobs.keys()) expect(digestOf(await bytesOf(await cache.getBlob("app", digest)))).toBe(digest);
  }
});

test.each([
  ["forget", "absent"],
  ["keep", "found"],
] as const)("pain 6: what becomes of an image that was deleted upstream is a policy: %s", async (deletedTags, kind) => {
  const { hub, origin, clock } = caching({ deletedTags });
  const image = await pushImage(origin, "app", "1");
  orThrow(await hub.getManifest("app", "1"));
  await origin.deleteManifest("app", image.digest);
  await clock.advance(minutes(5));
  expect((await hub.getManifest("app", "1")).kind).toBe(kind);
  expect((await hub.getManifest("app", image.digest)).kind).toBe("found");
});

test("pain 7: a blob that two images share and that was given up comes back whole, never empty or cut", async () => {
  const { hub, origin, clock } = caching({ maxBytes: "300KiB", keepFree: 0 });
  const image = await pushImage(origin, "one", "1", makeImage([200_000]));
  await pushImage(origin, "two", "1", image);
  const layer = image.layers[0]?.digest ?? "";
  for (const repository of ["one", "two"]) {
    orThrow(await hub.getManifest(repository, "1"));
    await whole(hub, repository, "1");
  }
  await clock.advance(minutes(120));
  await pushImage(origin, "three", "1", makeImage([250_000]));
  orThrow(await hub.getManifest("three", "1"));
  await eventually(async () => !(await hub.completeness("one", "1")).complete, "given up");
  for (const repository of ["one", "two"]) {
    expect(orThrow(await hub.resolveBlob(repository, layer)).size).toBe(200_000);
    expect(digestOf(await bytesOf(await hub.getBlob(repository, layer)))).toBe(layer);
  }
});

test("pain 8: the least recently used is evicted: what is pulled stays, what nobody pulls goes", async () => {
  const { hub, origin, clock } = caching({ maxBytes: "500KiB", keepFree: 0 });
  await pushImage(origin, "used", "1", makeImage([100_000]));
  orThrow(await hub.getManifest("used", "1"));
  await whole(hub, "used", "1");
  const layer = async () => {
    const manifest = JSON.parse(Buffer.from(orThrow(await hub.getManifest("used", "1")).bytes).toString()) as { layers: Descriptor[] };
    await bytesOf(await hub.getBlob("used", manifest.layers[0]?.digest ?? ""));
  };
  for (let day = 0; day < 10; day++) {
    await clock.advance(minutes(60 * 24));
    await layer();
    await pushImage(origin, `unused-${day}`, "1", makeImage([100_000]));
    orThrow(await hub.getManifest(`unused-${day}`, "1"));
    await whole(hub, `unused-${day}`, "1");
  }
  await eventually(async () => (await hub.status()).bytes <= 500 * 1024, "within the budget");
  const { missing } = await hub.completeness("used", "1");
  expect(missing.filter(({ size }) => size === 100_000)).toEqual([]);
  expect((await hub.completeness("unused-0", "1")).complete).toBe(false);
});

test("pain 9: a full cache fails no pull", async () => {
  const { hub, origin } = caching({ maxBytes: "1KiB", keepFree: 0 });
  const image = await pushImage(origin, "app", "1", makeImage([200_000, 300_000]));
  orThrow(await hub.getManifest("app", "1"));
  for (const digest of image.blobs.keys()) expect(digestOf(await bytesOf(await hub.getBlob("app", digest)))).toBe(digest);
});

test("pain 12: a pull of a cached index costs one HEAD, and whoever came first may leave without stalling the others", async () => {
  const { hub, origin, clock, calls, answers } = caching({ children: "all" });
  const image = await pushImage(origin, "app", "amd64");
  const child = { mediaType: "application/vnd.oci.image.manifest.v1+json", digest: image.digest, size: image.manifest.byteLength };
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [child] }));
  await origin.putManifest("app", "1", { bytes });
  orThrow(await hub.getManifest("app", "1"));
  await whole(hub, "app", "1");
  await clock.advance(minutes(5));
  calls.length = 0;
  const { open, passed } = gate();
  answers(() => passed);
  const leaving = new AbortController();
  const leader = hub.getManifest("app", "1", { signal: leaving.signal });
  const follower = hub.getManifest("app", "1");
  await settled();
  leaving.abort(new Error("cancelled"));
  await expect(leader).rejects.toThrow("cancelled");
  open();
  orThrow(await follower);
  orThrow(await hub.getManifest("app", image.digest));
  for (const digest of image.blobs.keys()) await bytesOf(await hub.getBlob("app", digest));
  expect(calls).toEqual(["resolveManifest app 1"]);
});

test("pain 15: HEAD by tag and GET by digest leave the tag here", async () => {
  const { hub, origin, switchOff, restart } = caching();
  const image = await pushImage(origin, "app", "1");
  const { digest } = orThrow(await hub.resolveManifest("app", "1"));
  orThrow(await hub.getManifest("app", digest));
  switchOff();
  expect(orThrow(await restart().getManifest("app", "1")).descriptor.digest).toBe(image.digest);
  expect(orThrow(await restart().listTags("app", { limit: 10 })).items).toEqual(["1"]);
});

test("pain 16: tags/list shows what the source has, not only what is here; offline what is known", async () => {
  const { hub, origin, switchOff, clock, restart } = caching();
  for (const tag of ["1", "2", "3"]) await pushImage(origin, "app", tag, makeImage([]));
  orThrow(await hub.getManifest("app", "2"));
  const items = async (cache: typeof hub) => orThrow(await cache.listTags("app", { limit: 10 })).items;
  expect(await items(hub)).toEqual(["1", "2", "3"]);
  switchOff();
  await clock.advance(minutes(10));
  expect(await items(hub)).toEqual(["1", "2", "3"]);
  expect(await items(restart())).toEqual(["2"]);
});

test("pain 22: one user's private images are not another's, and credentials may change between questions", async () => {
  const { hub, origin, answers } = caching({ partition: (caller) => caller?.name ?? "", tagTtl: "0s" });
  await pushImage(origin, "private", "1");
  let valid = "first";
  answers(({ caller }) => (caller?.token === valid ? undefined : failing("UNAUTHORIZED", "expired")));
  const pull = async (caller?: { name: string; token: string }) => (await hub.getManifest("private", "1", caller && { caller })).kind;
  expect(await pull({ name: "ada", token: "first" })).toBe("found");
  expect(await pull({ name: "eve", token: "none" })).toBe("denied");
  expect(await pull()).toBe("denied");
  valid = "second";
  expect(await hub.getManifest("private", "1", { caller: { name: "ada", token: "second" } })).toMatchObject({
    served: { cache: "hit", age: 0 },
  });
});

test("pain 24: HEAD through a chain of caches is asked of the upstream", async () => {
  const { hub: inner, origin } = caching();
  const image = await pushImage(origin, "app", "1");
  const outer = await site(
    cached(cached(inner, { storage: memoryStorage(), name: "middle" }), { storage: memoryStorage(), name: "outer" }),
  );
  const head = (path: string) =>
    outer.fetch(`/v2/app/${path}`, { method: "HEAD" }).then(({ status, headers }) => [status, headers.get("docker-content-digest")]);
  expect(await head(`blobs/${image.config.digest}`)).toEqual([200, image.config.digest]);
  expect(await head(`manifests/${image.digest}`)).toEqual([200, image.digest]);
  expect(await head("manifests/1")).toEqual([200, image.digest]);
  expect(await head("manifests/2")).toEqual([404, null]);
});

test("pain 26: a tag can be refreshed by a call, and by administrators over HTTP", async () => {
  const { hub, origin } = caching({ tagTtl: "7d" });
  await pushImage(origin, "app", "1");
  orThrow(await hub.getManifest("app", "1"));
  const second = await pushImage(origin, "app", "1");
  expect(orThrow(await hub.refresh("app", "1")).digest).toBe(second.digest);
  const third = await pushImage(origin, "app", "1");
  const { fetch } = await site(hub, { authorize: ({ action }) => action === "pull" || action === "refresh" });
  const answer = await fetch("/v2/app/manifests/1", { headers: { "cache-control": "no-cache" } });
  expect(answer.headers.get("docker-content-digest")).toBe(third.digest);
});

test("pain 28: it starts and serves while its upstream is down", async () => {
  const { hub, origin, switchOff, restart } = caching();
  await pushImage(origin, "app", "1");
  orThrow(await hub.getManifest("app", "1"));
  await whole(hub, "app", "1");
  switchOff();
  const again = restart();
  await again.ready();
  expect((await again.getManifest("app", "1")).kind).toBe("found");
});
