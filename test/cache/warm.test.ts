import { cached, mediaTypes, orThrow, type Registry, type WarmProgress } from "oci-manifold";
import { digestOf, parseDigest } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, test } from "vitest";
import { makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { recorder } from "../http/support.js";
import { caching, down, failing, gate, settled } from "./support.js";

/** An index of two images, amd64 and arm64, tagged `multi`. */
async function multi(options: Parameters<typeof caching>[0] = {}) {
  const all = caching(options);
  const images = [makeImage([1000, 2000]), makeImage([3000])] as const;
  for (const image of images) {
    await pushBlobs(all.origin, "app", image);
    await all.origin.putManifest("app", image.digest, { bytes: image.manifest });
  }
  const index = makeIndex(images);
  await all.origin.putManifest("app", "multi", { bytes: index.bytes });
  return { ...all, images, index };
}

test("brings an index with all platforms, and what is warm is pulled with the source switched off", async () => {
  const { hub, switchOff, images, calls } = await multi();
  expect(await hub.warm("app", "multi")).toEqual({ complete: true, missing: [] });
  switchOff();
  calls.length = 0;
  for (const image of images) {
    orThrow(await hub.getManifest("app", image.digest));
    for (const digest of image.blobs.keys()) expect(digestOf(await bytesOf(await hub.getBlob("app", digest)))).toBe(digest);
  }
  expect(await hub.warm("app", "multi")).toEqual({ complete: true, missing: [] });
  expect(calls).toEqual([]);
});

test("brings the platforms that are named alone", async () => {
  const { hub, images } = await multi();
  expect(await hub.warm("app", "multi", { platforms: ["linux/arm64"] })).toEqual({ complete: true, missing: [] });
  expect((await hub.completeness("app", "multi")).missing.map(({ digest }) => digest)).toEqual([images[0].digest]);
  await expect(hub.warm("app", "multi", { platforms: ["windows/amd64"] })).rejects.toMatchObject({
    code: "MANIFEST_UNKNOWN",
    message: expect.stringContaining("for windows/amd64"),
  });
});

test("tells how far it is", async () => {
  const { hub, images } = await multi();
  const told: WarmProgress[] = [];
  await hub.warm("app", "multi", { progress: (progress) => void told.push(progress) });
  const blobs = images.flatMap((image) => [...image.blobs.values()]);
  const bytes = blobs.reduce((sum, blob) => sum + blob.byteLength, 0);
  expect(told.at(-1)).toEqual({ repository: "app", items: 3 + blobs.length, done: 3 + blobs.length, bytes });
  expect(told.map(({ done }) => done)).toEqual(told.map((_, index) => index + 1));
  expect(told.every(({ done, items }) => done <= items)).toBe(true);
});

test("brings referrers where the policy is all, also such as came after the image", async () => {
  const { hub, origin, images, index } = await multi({ referrers: "all", tagTtl: "0s" });
  await hub.warm("app", "multi");
  const subject = { mediaType: mediaTypes.ociIndex, digest: index.digest, size: index.bytes.byteLength };
  const signature = makeImage([20], { subject, artifactType: "application/vnd.test.signature" });
  await pushBlobs(origin, "app", signature);
  await origin.putManifest("app", signature.digest, { bytes: signature.manifest });
  await hub.warm("app", "multi");
  expect(await hub.completeness("app", signature.digest)).toMatchObject({ complete: true });
  expect(images).toHaveLength(2);
});

test("aborted, it ends at once with the signal's reason; another call goes on from there", async () => {
  const { hub, images, answers, switchOn, calls } = await multi({ concurrency: 1 });
  const stuck = gate();
  const last = images[1].layers[0]?.digest ?? "";
  answers(({ text }) => (text === `getBlob app ${last}` ? stuck.passed : undefined));
  const leaving = new AbortController();
  const reason = new Error("enough");
  const warming = hub.warm("app", "multi", { signal: leaving.signal });
  await expect.poll(() => calls.includes(`getBlob app ${last}`)).toBe(true);
  leaving.abort(reason);
  await expect(warming).rejects.toBe(reason);
  stuck.open();
  switchOn();
  await settled();
  expect(await hub.warm("app", "multi")).toEqual({ complete: true, missing: [] });
  const requests = calls.filter((call) => call.startsWith("get"));
  expect(requests).toHaveLength(new Set(requests).size);
  await expect(hub.warm("app", "multi", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
});

test("waits for many layers with one signal, and Node warns of no leak", async () => {
  const { hub, origin, calls, answers } = caching();
  await pushImage(origin, "app", "1", makeImage(Array.from({ length: 30 }, (_, index) => index + 1)));
  const stuck = gate();
  answers(({ text }) => (text.startsWith("getBlob") ? stuck.passed : undefined));
  const warnings: Error[] = [];
  const noted = (warning: Error) => void warnings.push(warning);
  process.on("warning", noted);
  try {
    const warming = hub.warm("app", "1", { signal: new AbortController().signal });
    await expect.poll(() => calls.some((call) => call.startsWith("getBlob"))).toBe(true);
    stuck.open();
    expect((await warming).complete).toBe(true);
    await settled();
    expect(warnings).toEqual([]);
  } finally {
    process.off("warning", noted);
  }
});

test("aborted among many children, it asks about no other one", async () => {
  const { hub, origin, calls, answers } = caching();
  const images = Array.from({ length: 100 }, () => makeImage([10]));
  for (const image of images) {
    await pushBlobs(origin, "app", image);
    await origin.putManifest("app", image.digest, { bytes: image.manifest });
  }
  await origin.putManifest("app", "many", { bytes: makeIndex(images).bytes });
  const leaving = new AbortController();
  answers(() => void (calls.length === 30 && leaving.abort(new Error("enough"))));
  await expect(hub.warm("app", "many", { signal: leaving.signal })).rejects.toThrow("enough");
  await settled();
  // The layers of those that were asked for come as after a pull.
  const after = calls.slice(30).filter((call) => call.startsWith("getManifest"));
  expect(after).toEqual([]);
});

test("more referrers than anybody can look at are left with the signal, and by what comes in the background with the cache", async () => {
  const { origin } = caching();
  await pushImage(origin, "app", "1", makeImage([10]));
  const referrer = await pushImage(origin, "app", "2", makeImage([10]));
  const leaving = new AbortController();
  const requests = { pages: 0, pagesTooLate: 0 };
  const source: Registry = {
    ...origin,
    async listReferrers(_repository, _subject, _page, o) {
      if (o?.signal?.aborted) requests.pagesTooLate++;
      if (++requests.pages === 5) leaving.abort(new Error("enough"));
      const items = [{ mediaType: mediaTypes.ociManifest, size: referrer.manifest.byteLength, digest: parseDigest(referrer.digest) }];
      return { kind: "found", value: { items, next: "more" }, served: { member: ["origin"] } };
    },
  };
  const sink = recorder();
  const hub = cached(source, { storage: memoryStorage(), name: "hub", referrers: "all", events: sink });
  await expect(hub.warm("app", "1", { signal: leaving.signal })).rejects.toThrow("enough");
  await hub.close();
  const { pages } = requests;
  await settled(100);
  expect(requests).toEqual({ pages, pagesTooLate: 0 });
  expect(sink.of("fault").filter(({ message }) => message.startsWith("what refers to"))).toEqual([]);
});

describe("errors", () => {
  test("name what could not be brought, and how much else; what could be is here", async () => {
    const { hub, images, answers, switchOn, calls } = await multi();
    const [first, second] = images[0].layers.map(({ digest }) => digest);
    answers(({ text }) => {
      if (text === `getBlob app ${first}`) return failing("TOOMANYREQUESTS", "slow down", 30);
      return text === `getBlob app ${second}` ? down : undefined;
    });
    await expect(hub.warm("app", "multi")).rejects.toMatchObject({
      code: "TOOMANYREQUESTS",
      status: 429,
      retryAfter: 30,
      message: `app multi: ${first} could not be brought, and 1 more: slow down`,
    });
    expect((await hub.completeness("app", "multi")).missing.map(({ digest }) => digest)).toEqual([first, second]);
    switchOn();
    calls.length = 0;
    expect((await hub.warm("app", "multi")).complete).toBe(true);
    expect([...calls].sort()).toEqual([`getBlob app ${first}`, `getBlob app ${second}`].sort());
  });

  test("name a child that is missing at the source", async () => {
    const { hub, images, answers } = await multi();
    answers(({ text }) => (text === `getManifest app ${images[1].digest}` ? { kind: "absent" } : undefined));
    await expect(hub.warm("app", "multi")).rejects.toMatchObject({
      code: "MANIFEST_UNKNOWN",
      message: expect.stringContaining(images[1].digest),
    });
    expect(await hub.completeness("app", images[0].digest)).toMatchObject({ complete: true });
  });

  test("of an unknown image are what a pull gets", async () => {
    const { hub, switchOff } = await multi();
    await expect(hub.warm("app", "none")).rejects.toMatchObject({ code: "MANIFEST_UNKNOWN" });
    switchOff();
    await expect(hub.warm("other", "1")).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("other 1") });
  });

  test("closing the cache ends it", async () => {
    const { hub, answers, calls, origin } = caching({ concurrency: 1 });
    await pushImage(origin, "app", "1", makeImage([1, 2, 3]));
    const stuck = gate();
    answers(({ text }) => (text.startsWith("getBlob") ? stuck.passed : undefined));
    const warming = hub.warm("app", "1");
    await expect.poll(() => calls.some((call) => call.startsWith("getBlob"))).toBe(true);
    const closing = hub.close({ deadline: "1ms" });
    await expect(warming).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("closing") });
    stuck.open();
    await closing;
  });
});

test("an index that names the same thing again and again is walked once", async () => {
  const { hub, origin, calls } = caching();
  const image = makeImage([10]);
  await pushBlobs(origin, "app", image);
  let below = await origin.putManifest("app", image.digest, { bytes: image.manifest });
  for (let level = 0; level < 12; level++) {
    const bytes = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: mediaTypes.ociIndex,
        manifests: [below, { ...below, annotations: { a: "b" } }],
        annotations: { level: String(level) },
      }),
    );
    below = await origin.putManifest("app", level === 11 ? "deep" : digestOf(bytes), { bytes });
  }
  expect((await hub.warm("app", "deep")).complete).toBe(true);
  expect(calls).toHaveLength(1 + 13 + image.blobs.size);
});
