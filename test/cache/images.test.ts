import { type CachedOptions, mediaTypes, orThrow } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { describe, expect, test } from "vitest";
import { type Image, makeImage, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf, eventually } from "../fixtures/read.js";
import { caching, down, failing, gate, settled, whole } from "./support.js";

const platform = (architecture: string, variant?: string) => ({ os: "linux", architecture, ...(variant && { variant }) });

/** An index with an image for amd64 and arm64/v8, BuildKit's attestation of each, and a nested index of an image for s390x. */
async function indexed(options: Partial<CachedOptions> = {}) {
  const all = caching(options);
  const { origin } = all;
  const put = async (image: Image) => {
    await pushBlobs(origin, "app", image);
    await origin.putManifest("app", image.digest, { bytes: image.manifest });
  };
  const [amd64, arm64, amd64Attested, arm64Attested, s390x] = Array.from({ length: 5 }, (_, index) => makeImage([100 + index])) as [
    Image,
    Image,
    Image,
    Image,
    Image,
  ];
  for (const image of [amd64, arm64, amd64Attested, arm64Attested, s390x]) await put(image);
  const child = (image: Image, more: object) => ({
    mediaType: mediaTypes.ociManifest,
    digest: image.digest,
    size: image.manifest.byteLength,
    ...more,
  });
  const attests = (image: Image, of: Image) =>
    child(image, {
      platform: { os: "unknown", architecture: "unknown" },
      annotations: { "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of.digest },
    });
  const index = (manifests: object[]) => Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests }));
  const nestedBytes = index([child(s390x, { platform: platform("s390x") })]);
  const nested = await origin.putManifest("app", digestOf(nestedBytes), { bytes: nestedBytes });
  const bytes = index([
    child(amd64, { platform: platform("amd64") }),
    child(arm64, { platform: platform("arm64", "v8") }),
    attests(amd64Attested, amd64),
    attests(arm64Attested, arm64),
    nested,
  ]);
  await origin.putManifest("app", "multi", { bytes });
  const here = async () => {
    const names = { amd64, arm64, amd64Attested, arm64Attested, s390x };
    const found: string[] = [];
    for (const [name, { digest }] of Object.entries(names)) {
      const state = await all.hub.completeness("app", digest).catch(() => undefined);
      if (state?.complete) found.push(name);
    }
    return found;
  };
  return { ...all, bytes, amd64, arm64, nested, here };
}

describe("an index", () => {
  test("comes verbatim and alone on demand; the platform that is pulled comes whole", async () => {
    const { hub, bytes, amd64, here, calls } = await indexed();
    expect(Buffer.from(orThrow(await hub.getManifest("app", "multi")).bytes)).toEqual(bytes);
    await settled();
    expect(calls).toEqual(["resolveManifest app multi", `getManifest app ${digestOf(bytes)}`]);
    orThrow(await hub.getManifest("app", amd64.digest));
    await whole(hub, "app", amd64.digest);
    expect(await here()).toEqual(["amd64"]);
    expect((await hub.completeness("app", "multi")).missing).toHaveLength(4);
  });

  test("comes with all its children, attestations and nested indexes", async () => {
    const { hub, here } = await indexed({ children: "all" });
    await hub.getManifest("app", "multi");
    await whole(hub, "app", "multi");
    expect(await here()).toEqual(["amd64", "arm64", "amd64Attested", "arm64Attested", "s390x"]);
  });

  test.each([
    ["linux/amd64", ["amd64", "amd64Attested"]],
    ["linux/arm64", ["arm64", "arm64Attested"]],
    ["linux/arm64/v8", ["arm64", "arm64Attested"]],
    ["linux/arm64/v7", []],
    ["linux/s390x", ["s390x"]],
  ])("comes with %s, what attests it, and what nested indexes have for it", async (wanted, expected) => {
    const { hub, here, nested } = await indexed({ children: { platforms: [wanted] } });
    await hub.getManifest("app", "multi");
    await eventually(async () => (await hub.completeness("app", "multi", [wanted])).complete, `${wanted} is here`);
    await settled();
    expect(await here()).toEqual(expected);
    expect((await hub.completeness("app", nested.digest)).complete).toBe(wanted === "linux/s390x");
  });

  test("whose child cannot be had is served; the failure is told and tried again with the next pull", async () => {
    const { hub, amd64, answers, switchOn, sink, here } = await indexed({ children: { platforms: ["linux/amd64"] } });
    answers(({ text }) => (text === `getManifest app ${amd64.digest}` ? down : undefined));
    orThrow(await hub.getManifest("app", "multi"));
    await eventually(async () => sink.of("fault").length > 0, "told");
    expect(sink.of("fault")).toMatchObject([{ message: `${amd64.digest} of app could not be brought: connection refused` }]);
    switchOn();
    orThrow(await hub.getManifest("app", "multi"));
    await eventually(async () => (await here()).includes("amd64"), "brought by the next pull");
  });

  test("of blobs, as BuildKit's older caches, brings them", async () => {
    const { hub, origin } = caching({ children: "all" });
    const image = makeImage([50, 60]);
    await pushBlobs(origin, "app", image);
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: image.layers }));
    await origin.putManifest("app", "cache", { bytes });
    await hub.getManifest("app", "cache");
    await whole(hub, "app", "cache");
    expect((await hub.warm("app", "cache")).complete).toBe(true);
  });
});

describe("referrers", () => {
  async function signed(options: Partial<CachedOptions>) {
    const all = caching(options);
    const image = await pushImage(all.origin, "app", "1", makeImage([10]));
    const subject = { mediaType: mediaTypes.ociManifest, digest: image.digest, size: image.manifest.byteLength };
    const signature = makeImage([20], { subject, artifactType: "application/vnd.test.signature" });
    await pushBlobs(all.origin, "app", signature);
    await all.origin.putManifest("app", signature.digest, { bytes: signature.manifest });
    return { ...all, image, signature };
  }

  test("stay where they are on demand", async () => {
    const { hub, calls } = await signed({});
    await hub.getManifest("app", "1");
    await whole(hub, "app", "1");
    await settled();
    expect(calls.filter((call) => call.startsWith("listReferrers"))).toEqual([]);
  });

  test("come with their image, and are not asked for referrers of their own", async () => {
    const { hub, calls, image, signature } = await signed({ referrers: "all" });
    await hub.getManifest("app", "1");
    await eventually(async () => (await hub.completeness("app", signature.digest).catch(() => undefined))?.complete === true, "signature");
    expect(calls.filter((call) => call.startsWith("listReferrers"))).toEqual([`listReferrers app ${image.digest}`]);
  });

  test("of a source that has no list of them are none, and no fault", async () => {
    const { hub, answers, sink } = await signed({ referrers: "all" });
    answers(({ text }) => (text.startsWith("listReferrers") ? { kind: "absent" } : undefined));
    await hub.getManifest("app", "1");
    await whole(hub, "app", "1");
    await settled();
    expect(sink.of("fault")).toEqual([]);
  });
});

describe("bringing in the background", () => {
  test("takes as many blobs at a time as `concurrency` says, and lets clients through at once", async () => {
    const { hub, origin, answers, calls } = caching({ concurrency: 2 });
    const image = await pushImage(origin, "app", "1", makeImage([1, 2, 3, 4, 5]));
    const { open, passed } = gate();
    answers(({ text }) => (text.startsWith("getBlob") ? passed : undefined));
    const requests = () => calls.filter((call) => call.startsWith("getBlob"));
    await hub.getManifest("app", "1");
    await settled();
    expect(requests()).toHaveLength(2);
    expect((await hub.status()).fills).toEqual({ running: 2, queued: 4 });
    const last = image.layers.at(-1)?.digest ?? "";
    const pulled = hub.getBlob("app", last);
    await settled();
    expect(requests()).toHaveLength(3);
    expect(requests().at(-1)).toBe(`getBlob app ${last}`);
    open();
    expect(digestOf(await bytesOf(await pulled))).toBe(last);
    await whole(hub, "app", "1");
    expect(requests()).toHaveLength(image.blobs.size);
  });

  test("goes on after a restart, with the next pull, also of one that is in time", async () => {
    const { hub, origin, answers, switchOn, restart, calls } = caching();
    const image = await pushImage(origin, "app", "1", makeImage([1000]));
    answers(({ text }) => (text.startsWith("getBlob") ? down : undefined));
    await hub.getManifest("app", "1");
    await settled();
    switchOn();
    const again = restart();
    expect((await again.completeness("app", "1")).missing).toHaveLength(2);
    calls.length = 0;
    expect(await again.getManifest("app", "1")).toMatchObject({ served: { cache: "hit" } });
    await whole(again, "app", "1");
    expect([...calls].sort()).toEqual([...image.blobs.keys()].map((digest) => `getBlob app ${digest}`).sort());
  });

  test("tells what a source did not give, and begins anew with the next pull of the manifest", async () => {
    const { hub, origin, answers, switchOn, sink } = caching();
    const image = await pushImage(origin, "app", "1", makeImage([1000]));
    const layer = image.layers[0]?.digest ?? "";
    answers(({ text }) => (text === `getBlob app ${layer}` ? failing("TOOMANYREQUESTS", "slow down") : undefined));
    await hub.getManifest("app", "1");
    await eventually(async () => sink.of("fault").length > 0, "told");
    expect(sink.of("fault")).toMatchObject([{ registry: "hub", message: `${layer} of app could not be brought: slow down` }]);
    switchOn();
    await hub.getManifest("app", image.digest);
    await whole(hub, "app", "1");
  });

  test("asks for each thing once, however often the image is pulled", async () => {
    const { hub, origin, calls } = caching();
    const image = await pushImage(origin, "app", "1", makeImage([1000, 2000]));
    for (let pull = 0; pull < 5; pull++) {
      await hub.getManifest("app", "1");
      await hub.getManifest("app", image.digest);
      await whole(hub, "app", "1");
    }
    expect(calls).toHaveLength(2 + image.blobs.size);
  });
});

describe("completeness", () => {
  test("names what is missing, and asks the source nothing", async () => {
    const { hub, calls, amd64, switchOff, bytes } = await indexed();
    await expect(hub.completeness("app", "multi")).rejects.toMatchObject({ code: "MANIFEST_UNKNOWN" });
    await hub.getManifest("app", "multi");
    calls.length = 0;
    switchOff();
    const { complete, missing } = await hub.completeness("app", "multi", ["linux/amd64"]);
    expect(complete).toBe(false);
    expect(missing[0]).toMatchObject({ digest: amd64.digest, platform: platform("amd64") });
    expect(await hub.completeness("app", digestOf(bytes))).toMatchObject({ complete: false });
    expect(calls).toEqual([]);
  });

  test("of platforms that an index has no image for is an error, not complete", async () => {
    const { hub, origin, amd64 } = await indexed();
    const child = { mediaType: mediaTypes.ociManifest, digest: amd64.digest, size: amd64.manifest.byteLength, platform: platform("amd64") };
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [child] }));
    await origin.putManifest("app", "one", { bytes });
    await hub.getManifest("app", "one");
    await expect(hub.completeness("app", "one", ["amd64"])).rejects.toMatchObject({
      code: "MANIFEST_UNKNOWN",
      message: "app has no one for amd64",
    });
  });
});
