import { localRegistry, type Registry } from "oci-manifold";
import { digestOf, type StoringRegistry } from "oci-manifold/extend";
import { type PromoteOptions, promote, promotions } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { beforeEach, describe, expect, test } from "vitest";
import { type Image, makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { spied } from "../fixtures/spy.js";
import { corrupting, joined, put, rejection, switchable } from "./support.js";

let storage = memoryStorage();
let staging: StoringRegistry;
let release: StoringRegistry;
let apart: StoringRegistry;
const options = (more: Partial<PromoteOptions> = {}): PromoteOptions => ({ repository: "app", tags: ["1"], by: "ana", ...more });
const digestAt = async (registry: Registry, reference: string, repository = "app") => {
  const lookup = await registry.resolveManifest(repository, reference);
  return lookup.kind === "found" ? lookup.value.digest : lookup.kind;
};

beforeEach(() => {
  storage = memoryStorage();
  staging = localRegistry({ storage, name: "staging" });
  release = localRegistry({ storage, name: "release" });
  apart = localRegistry({ storage: memoryStorage(), name: "apart" });
});

test("between registries of one store nothing is copied; elsewhere bytes are, and verified", async () => {
  const image = await pushImage(staging, "app", "1");
  const { registry, calls } = spied(staging);
  const blobs = (await storage.blobs.list({ limit: 10 })).items;
  expect(await promote(registry, release, options())).toMatchObject({ items: 4, done: 4, bytes: 0, promoted: [{ digest: image.digest }] });
  expect(calls.filter((call) => call.startsWith("getBlob"))).toEqual([]);
  expect((await storage.blobs.list({ limit: 10 })).items).toEqual(blobs);
  const sizes = [...image.blobs.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  expect(await promote(staging, apart, options({ repository: { from: "app", to: "team/app" } }))).toMatchObject({ bytes: sizes });
  for (const [registry, repository] of [
    [release, "app"],
    [apart, "team/app"],
  ] as const) {
    expect(await digestAt(registry, "1", repository)).toBe(image.digest);
    for (const digest of image.blobs.keys()) expect(digestOf(await bytesOf(await registry.getBlob(repository, digest)))).toBe(digest);
  }
});

test("an index goes with its children, and referrers when asked for", async () => {
  const [amd, arm] = [await pushImage(staging, "app", "amd"), await pushImage(staging, "app", "arm")];
  const index = makeIndex([amd, arm]);
  await put(staging, "app", "1", index.bytes);
  const subject = (image: Image) => ({
    subject: { mediaType: "application/vnd.oci.image.manifest.v1+json", digest: image.digest, size: image.manifest.byteLength },
  });
  const signature = makeImage([10], subject(amd));
  const attestation = makeImage([11], subject(signature));
  for (const image of [signature, attestation]) {
    await pushBlobs(staging, "app", image);
    await put(staging, "app", image.digest, image.manifest);
  }
  await promote(staging, release, options());
  expect(await digestAt(release, "1")).toBe(index.digest);
  expect(await digestAt(release, arm.digest)).toBe(arm.digest);
  expect(await digestAt(release, signature.digest)).toBe("absent");
  await promote(staging, apart, options({ referrers: true }));
  expect(await apart.listReferrers("app", amd.digest, { limit: 5 })).toMatchObject({ value: { items: [{ digest: signature.digest }] } });
  expect(await digestAt(apart, attestation.digest)).toBe(attestation.digest);
});

test("some platforms go only to a sparse target", async () => {
  const [amd, arm] = [await pushImage(staging, "app", "amd"), makeImage()];
  const index = makeIndex([amd, arm]);
  await put(staging, "app", "1", index.bytes, true);
  const sparse = localRegistry({ storage, name: "sparse", sparse: true });
  const some = options({ platforms: ["linux/amd64"] });
  expect(await rejection(promote(staging, release, some))).toMatchObject({
    code: "UNSUPPORTED",
    message: expect.stringContaining("sparse"),
  });
  expect(await release.listRepositories({ limit: 1 })).toMatchObject({ value: { items: [] } });
  await promote(staging, sparse, some);
  expect([await digestAt(sparse, "1"), await digestAt(sparse, amd.digest), await digestAt(sparse, arm.digest)]).toEqual([
    index.digest,
    amd.digest,
    "absent",
  ]);
  expect(await rejection(promote(staging, sparse, options()))).toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
});

describe("refused before anything is visible", () => {
  test.each([
    ["a lost layer", async (image: Image) => staging.deleteBlob("app", image.layers[0]?.digest ?? ""), "MANIFEST_BLOB_UNKNOWN"],
    [
      "a blob reference that leads elsewhere",
      async ({ config }: Image) => {
        await staging.deleteBlob("app", config.digest);
        await staging.addBlobReference("app", config, { member: "hub", repository: "app" });
      },
      "MANIFEST_BLOB_UNKNOWN",
    ],
    ["a missing tag", async () => staging.deleteManifest("app", "1"), "MANIFEST_UNKNOWN"],
  ])("%s", async (_, spoil, code) => {
    await pushImage(staging, "app", "0");
    await spoil(await pushImage(staging, "app", "1"));
    expect(await rejection(promote(staging, apart, options({ tags: ["0", "1"] })))).toMatchObject({ code });
    expect(await apart.listRepositories({ limit: 1 })).toMatchObject({ value: { items: [] } });
    expect((await apart.listBlobReferences("app", { limit: 1 })).items).toEqual([]);
    expect((await promotions(apart, "app", { limit: 1 })).items).toEqual([]);
  });

  test("a source that is down", async () => {
    await pushImage(staging, "app", "1");
    const flaky = switchable(staging);
    flaky.down = true;
    expect(await rejection(promote(flaky.registry, release, options()))).toMatchObject({ code: "UNAVAILABLE" });
  });
});

test("wrong bytes at the source move no tag; the next attempt goes on", async () => {
  const image = await pushImage(staging, "app", "1");
  const corrupt = new Set([image.config.digest as string]);
  const source = corrupting(staging, corrupt);
  expect(await rejection(promote(source, apart, options({ concurrency: 1 })))).toMatchObject({ code: "UNAVAILABLE" });
  expect(await digestAt(apart, "1")).toBe("absent");
  corrupt.clear();
  const controller = new AbortController();
  const ended = promote(
    source,
    apart,
    options({ signal: controller.signal, progress: () => controller.abort(new Error("enough")), concurrency: 1 }),
  );
  expect(await rejection(ended)).toMatchObject({ message: "enough" });
  const { registry, calls } = spied(source);
  await promote(registry, apart, options());
  expect(calls.filter((call) => call.startsWith("getBlob"))).toHaveLength(2);
  expect(await digestAt(apart, "1")).toBe(image.digest);
});

test("a tag that somebody else moves meanwhile is left alone", async () => {
  await pushImage(staging, "app", "1");
  const old = await pushImage(release, "app", "1");
  const theirs = makeImage();
  const racing = {
    ...staging,
    async resolveBlob(repository: string, digest: string) {
      await pushImage(release, "app", "1", theirs);
      return staging.resolveBlob(repository, digest);
    },
  };
  expect(await rejection(promote(racing, release, options()))).toMatchObject({ code: "PRECONDITION_FAILED" });
  expect(await digestAt(release, "1")).toBe(theirs.digest);
  expect(old.digest).not.toBe(theirs.digest);
  expect((await promotions(release, "app", { limit: 1 })).items).toEqual([]);
});

test("is recorded: who, when, why, from where; pages lead through all of it", async () => {
  const clock = fakeClock(1_000);
  const target = localRegistry({ storage, name: "target", clock });
  const images: Image[] = [];
  for (let i = 0; i < 3; i++) {
    images.push(await pushImage(staging, "app", "1", makeImage()));
    await pushImage(staging, "app", "2", images[i]);
    await promote(staging, target, options({ tags: ["1", "2"], comment: `round ${i}` }));
    // The tag stands there: nothing to do, nothing to record.
    expect(await promote(staging, target, options({ tags: ["1"] }))).toMatchObject({ promoted: [] });
  }
  const first = {
    repository: "app",
    tag: "1",
    digest: images[0]?.digest,
    from: { registry: "local staging", repository: "app" },
    by: "ana",
    comment: "round 0",
    time: 1_000,
  };
  const all = await promotions(target, "app", { limit: 10 });
  expect(all.items).toHaveLength(6);
  expect(all.items[0]).toEqual(first);
  expect(all.items[1]).toMatchObject({ tag: "1", previous: images[0]?.digest, digest: images[1]?.digest, time: 1_001 });
  const paged: unknown[] = [];
  for (let after: string | undefined, more = true; more; more = after !== undefined) {
    const page = await promotions(target, "app", { limit: 2, ...(after !== undefined && { after }) });
    paged.push(...page.items);
    after = page.next;
  }
  expect(paged).toEqual(all.items);
  expect((await promotions(target, "app", { limit: 10, tag: "2" })).items.map(({ tag }) => tag)).toEqual(["2", "2", "2"]);
  expect((await promotions(target, "ap", { limit: 10 })).items).toEqual([]);
});

test("a promotion that was killed before it was recorded is recorded by the next one", async () => {
  await pushImage(staging, "app", "1");
  const killed: StoringRegistry = { ...release, recordPromotion: () => Promise.reject(new Error("killed")) };
  expect(await rejection(promote(staging, killed, options()))).toMatchObject({ message: "killed" });
  expect(await promote(staging, release, options())).toMatchObject({ promoted: [{ tag: "1" }] });
  expect((await promotions(release, "app", { limit: 5 })).items).toHaveLength(1);
});

test("to and from aggregates: what is behind a connector goes along, into the local registry", async () => {
  const image = await pushImage(apart, "app", "1");
  const source = joined(staging, [{ name: "apart", source: apart }]);
  await promote(source, joined(release, [{ name: "apart", source: apart }]), options());
  expect(await digestAt(release, "1")).toBe(image.digest);
  for (const digest of image.blobs.keys()) expect((await release.resolveBlob("app", digest)).kind).toBe("found");
  expect((await promotions(release, "app", { limit: 5 })).items).toHaveLength(1);
});
