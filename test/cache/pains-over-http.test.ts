// What users of other registries that cache suffer from: one test for each complaint that caching can answer, by number.
import { type CachedOptions, cached, orThrow, remoteRegistry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { type FakeUpstream, fakeClock, fakeUpstream } from "oci-manifold/testing";
import { expect, onTestFinished, test } from "vitest";
import { bytesOf, eventually } from "../fixtures/read.js";
import { gate, minutes, settled, whole } from "./support.js";

async function overHttp(options: Partial<CachedOptions> = {}) {
  const upstream = await fakeUpstream();
  const clock = fakeClock();
  const remote = remoteRegistry(upstream.url);
  const hub = cached(remote, { storage: memoryStorage(), name: "hub", clock, ...options });
  onTestFinished(async () => {
    await hub.close();
    await upstream.close();
  });
  return { upstream, clock, hub };
}

const requests = ({ requests }: FakeUpstream) => requests.filter(({ url }) => url !== "/v2/").map(({ method, url }) => `${method} ${url}`);

test("pain 4: pulls of what is here cost no pull quota: a HEAD a tagTtl, nothing by digest", async () => {
  const { upstream, clock, hub } = await overHttp({ tagTtl: "5m" });
  const { digest } = upstream.addImage("app", "1");
  orThrow(await hub.getManifest("app", "1"));
  await whole(hub, "app", "1");
  expect(requests(upstream).slice(0, 2)).toEqual(["HEAD /v2/app/manifests/1", `GET /v2/app/manifests/${digest}`]);
  upstream.requests.length = 0;
  for (let pull = 0; pull < 100; pull++) {
    orThrow(await hub.resolveManifest("app", "1"));
    orThrow(await hub.getManifest("app", digest));
    await clock.advance(minutes(1) / 10);
  }
  expect(requests(upstream)).toEqual(["HEAD /v2/app/manifests/1"]);
});

test("pain 10: a herd costs one transfer, which everyone follows while it runs", async () => {
  const { upstream, hub } = await overHttp();
  const { layers } = upstream.addImage("app", "1", { layers: [1_000_000] });
  const layer = layers[0]?.digest ?? "";
  upstream.intercept = ({ url }) => (url.includes(layer) ? { slowBytesPerSecond: 2_000_000 } : undefined);
  let finished = 0;
  let early = 0;
  const pulls = Array.from({ length: 50 }, async () => {
    orThrow(await hub.getManifest("app", "1"));
    const { content } = orThrow(await hub.getBlob("app", layer));
    if (content.kind !== "stream") throw new Error("expected a stream");
    const chunks: Uint8Array[] = [];
    for await (const chunk of content.open()) {
      if (chunks.push(chunk) === 1 && finished === 0) early++;
    }
    finished++;
    return digestOf(Buffer.concat(chunks));
  });
  expect(new Set(await Promise.all(pulls))).toEqual(new Set([layer]));
  expect(early).toBe(50);
  expect(requests(upstream).filter((request) => request === `GET /v2/app/blobs/${layer}`)).toHaveLength(1);
  expect(requests(upstream).filter((request) => request.includes("/manifests/"))).toHaveLength(2);
});

test("pain 11: the manifest and the first bytes of a layer come before the image is here", async () => {
  const { upstream, hub } = await overHttp();
  const { layers } = upstream.addImage("app", "1", { layers: [1_000_000, 2000] });
  const { open, passed } = gate();
  upstream.intercept = async ({ url }) => {
    if (url.includes(layers[1]?.digest ?? "")) await passed;
    return url.includes(layers[0]?.digest ?? "") ? { slowBytesPerSecond: 5_000_000 } : undefined;
  };
  orThrow(await hub.getManifest("app", "1"));
  const { content } = orThrow(await hub.getBlob("app", layers[0]?.digest ?? ""));
  if (content.kind !== "stream") throw new Error("expected a stream");
  for await (const chunk of content.open()) {
    expect(chunk.byteLength).toBeGreaterThan(0);
    break;
  }
  expect((await hub.completeness("app", "1")).complete).toBe(false);
  open();
  await whole(hub, "app", "1");
});

test("pains 13 and 14: an index and its manifests are kept to the byte, whatever their spelling, and children come when they are pulled", async () => {
  const { upstream, hub } = await overHttp();
  const image = upstream.addImage("app", undefined);
  const spelled = Buffer.from(
    `{\n "manifests" : [ ${JSON.stringify({ ...image.descriptor, platform: { os: "linux", architecture: "amd64" }, "x-own": 1.0 })} ],\r\n\t"schemaVersion":2, "\\u006dediaType": "application/vnd.oci.image.index.v1+json", "unknown": [1e2] }\n`,
  );
  const index = upstream.addManifest("app", "1", spelled, { mediaType: "application/vnd.oci.image.index.v1+json" });
  for (const reference of ["1", index.digest, "1"]) {
    const { bytes, descriptor } = orThrow(await hub.getManifest("app", reference));
    expect(Buffer.from(bytes).equals(spelled)).toBe(true);
    expect(descriptor).toEqual({ mediaType: index.mediaType, digest: digestOf(spelled), size: spelled.byteLength });
  }
  await settled();
  expect(requests(upstream).filter((request) => request.includes(image.digest))).toEqual([]);
  expect(digestOf(orThrow(await hub.getManifest("app", image.digest)).bytes)).toBe(image.digest);
});

test.each([
  ["the referrers API", true],
  ["the fallback tag", false],
])("pain 18: signatures come through the cache by %s, and cosign's by their tags", async (_, referrers) => {
  const upstream = await fakeUpstream({ referrers });
  const hub = cached(remoteRegistry(upstream.url), { storage: memoryStorage(), name: "hub", referrers: "all" });
  const image = upstream.addImage("app", "1");
  const signature = upstream.addImage("app", undefined, { subject: image.descriptor, artifactType: "application/vnd.test.signature" });
  const plain = image.digest.replace(":", "-");
  if (!referrers) upstream.addIndex("app", plain, [signature.descriptor]);
  const cosign = upstream.addImage("app", `${plain}.sig`);
  const list = () => hub.listReferrers("app", image.digest, { limit: 10 });
  expect(orThrow(await list()).items.map(({ digest }) => digest)).toEqual([signature.digest]);
  orThrow(await hub.getManifest("app", "1"));
  expect(orThrow(await hub.getManifest("app", `${plain}.sig`)).descriptor.digest).toBe(cosign.digest);
  await eventually(
    async () => (await hub.completeness("app", signature.digest).catch(() => undefined))?.complete === true,
    "signature here",
  );
  await upstream.close();
  orThrow(await hub.getManifest("app", signature.digest));
  orThrow(await hub.getManifest("app", `${plain}.sig`));
  expect(orThrow(await list()).items).toHaveLength(1);
  await hub.close();
});

test("pain 24: a large layer that is cut is resumed and verified", async () => {
  const { upstream, hub } = await overHttp({ clock: undefined });
  const { layers } = upstream.addImage("app", "1", { layers: [3_000_000] });
  const layer = layers[0]?.digest ?? "";
  let cuts = 0;
  upstream.intercept = ({ method, url }) =>
    method === "GET" && url.includes(layer) && cuts++ < 2 ? { truncateAfter: 1_000_000 } : undefined;
  expect(digestOf(await bytesOf(await hub.getBlob("app", layer)))).toBe(layer);
  const ranges = upstream.requests.filter(({ url }) => url.includes(layer)).map(({ headers }) => headers.range);
  expect(ranges).toEqual([undefined, "bytes=1000000-", "bytes=2000000-"]);
});
