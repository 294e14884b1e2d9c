import { localRegistry, mediaTypes, orThrow, type Registry, RegistryError } from "oci-manifold";
import type { StoringRegistry } from "oci-manifold/extend";
import { type CopyToLocalProgress, copyToLocal, findDangling } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, describe, expect, test } from "vitest";
import { type Image, makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { corrupting, joined, put, rejection, switchable } from "./support.js";

let storage = memoryStorage();
let local: StoringRegistry;
let hub: StoringRegistry;

beforeEach(() => {
  storage = memoryStorage();
  local = localRegistry({ storage, name: "prerelease" });
  hub = localRegistry({ storage: memoryStorage(), name: "hub" });
});

async function pushLinked(repository: string, tag: string, image: Image = makeImage([1000, 2000])): Promise<Image> {
  await pushBlobs(hub, repository, image);
  for (const blob of [image.config, ...image.layers]) await local.addBlobReference(repository, blob, { member: "hub", repository });
  await put(local, repository, tag, image.manifest);
  return image;
}
const sizeOf = (image: Image) => [...image.blobs.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);

test("after pin and removal the audit is clean, and everything can be read", async () => {
  const linked = await pushLinked("app", "1");
  const child = await pushImage(hub, "app", "only-there");
  await put(local, "app", "all", makeIndex([linked, child]).bytes, true);
  await pushLinked("other", "1");
  const before = joined(local, [{ name: "hub", source: hub }]);
  const told: CopyToLocalProgress[] = [];
  const report = await copyToLocal(before, { repository: "app" }, { progress: (progress) => told.push(progress) });
  expect(report).toMatchObject({ complete: true, failed: [], bytes: sizeOf(linked) + sizeOf(child) });
  expect(told.at(-1)).toMatchObject({ items: report.items, done: report.items });
  expect((await findDangling(joined(local, []))).dangling).toHaveLength(3);
  expect(await copyToLocal(before, "all")).toMatchObject({ complete: true });
  expect(await findDangling(joined(local, []))).toMatchObject({ manifests: 4, dangling: [], unknown: [] });
  for (const image of [linked, child])
    for (const digest of image.blobs.keys()) expect((await local.getBlob("app", digest)).kind).toBe("found");
});

test("every tag that a connector lists comes, but what is pushed here stays, and what others have is not asked for", async () => {
  const [first, second, ours] = [await pushImage(hub, "team/app", "1"), await pushImage(hub, "tool", "2"), makeImage()];
  await put(hub, "team/app", "all", makeIndex([first]).bytes);
  await pushImage(hub, "team/app", "mine");
  await pushImage(local, "team/app", "mine", ours);
  await pushImage(hub, "reserved", "1");
  const other = localRegistry({ storage: memoryStorage(), name: "other" });
  await pushImage(other, "elsewhere", "1");
  const connectors = [
    { name: "hub", source: hub },
    { name: "other", source: other },
  ];
  const aggregate = joined(local, connectors, ["reserved"]);
  expect(await copyToLocal(aggregate, { connector: "hub" })).toMatchObject({ complete: true });
  const at = async (repository: string, tag: string) => {
    const lookup = await local.resolveManifest(repository, tag);
    return lookup.kind === "found" ? lookup.value.digest : lookup.kind;
  };
  expect([await at("team/app", "1"), await at("tool", "2"), await at("team/app", "mine")]).toEqual([
    first.digest,
    second.digest,
    ours.digest,
  ]);
  expect([await at("elsewhere", "1"), await at("reserved", "1")]).toEqual(["absent", "absent"]);
  expect(await findDangling(joined(local, []))).toMatchObject({ dangling: [], unknown: [] });
  expect(await copyToLocal(aggregate, { connector: "hub" })).toMatchObject({ complete: true, bytes: 0 });
  expect(await rejection(copyToLocal(aggregate, { connector: "nobody" }))).toMatchObject({ code: "NAME_UNKNOWN" });
});

test("an image that only a connector has is stored with its tag, once all of it is here", async () => {
  const [amd, arm] = [await pushImage(hub, "app", "amd"), await pushImage(hub, "app", "arm")];
  const index = makeIndex([amd, arm]);
  await put(hub, "app", "1", index.bytes);
  const flaky = switchable(hub);
  const aggregate = joined(local, [{ name: "hub", source: flaky.registry }]);
  await hub.deleteBlob("app", arm.config.digest);
  const partly = await copyToLocal(aggregate, { repository: "app", reference: "1" });
  expect(partly).toMatchObject({ complete: false });
  expect(partly.failed[0]).toMatchObject({ reference: { digest: arm.config.digest }, why: "hub does not have it" });
  expect((await local.resolveManifest("app", "1")).kind).toBe("absent");
  await pushBlobs(hub, "app", arm);
  const rest = await copyToLocal(aggregate, { repository: "app", reference: "1" });
  expect(rest).toMatchObject({ complete: true, bytes: arm.config.size });
  expect(await local.resolveManifest("app", "1")).toMatchObject({ value: { digest: index.digest } });
  expect(await findDangling(joined(local, []))).toMatchObject({ manifests: 3, dangling: [] });
  flaky.down = true;
  const away = await copyToLocal(aggregate, { repository: "app", reference: "1" });
  // All of it is here, but nobody knows of which referrers there may be.
  expect(away).toMatchObject({ complete: false, bytes: 0, failed: [] });
  expect(await copyToLocal(aggregate, { repository: "app", reference: "1" }, { referrers: false })).toMatchObject({ complete: true });
  expect(await rejection(copyToLocal(aggregate, { repository: "gone", reference: "1" }))).toMatchObject({ code: "UNAVAILABLE" });
  flaky.down = false;
  expect(await rejection(copyToLocal(aggregate, { repository: "gone", reference: "1" }))).toMatchObject({ code: "MANIFEST_UNKNOWN" });
});

test("can be ended and goes on: what is here is not fetched again", async () => {
  for (let i = 0; i < 5; i++) await pushLinked("app", `${i}`);
  const { registry, calls } = spied(hub);
  const aggregate = joined(local, [{ name: "hub", source: registry }]);
  const controller = new AbortController();
  const options = {
    signal: controller.signal,
    concurrency: 1,
    progress: ({ done }: CopyToLocalProgress) => {
      if (done === 6) controller.abort(new Error("enough"));
    },
  };
  expect(await rejection(copyToLocal(aggregate, "all", options))).toMatchObject({ message: "enough" });
  const fetched = calls.filter((call) => call.startsWith("getBlob")).length;
  expect(fetched).toBe(6);
  expect(await copyToLocal(aggregate, "all")).toMatchObject({ complete: true, items: 15 });
  expect(calls.filter((call) => call.startsWith("getBlob"))).toHaveLength(15);
});

test("wrong bytes are never stored; another member gives the right ones", async () => {
  const image = await pushLinked("app", "1");
  const corrupt = new Set([image.config.digest as string]);
  const bad = { name: "hub", source: corrupting(hub, corrupt) };
  const report = await copyToLocal(joined(local, [bad]), "all");
  expect(report.failed).toMatchObject([{ reference: { digest: image.config.digest }, why: expect.stringContaining("hub: ") }]);
  expect(await local.resolveBlob("app", image.config.digest)).toMatchObject({ kind: "linked" });
  expect(await copyToLocal(joined(local, [bad, { name: "other", source: hub }]), "all")).toMatchObject({ complete: true });
  expect((await local.resolveBlob("app", image.config.digest)).kind).toBe("found");
});

test("a member that goes down in the middle leaves the rest for the next time", async () => {
  for (let i = 0; i < 3; i++) await pushLinked("app", `${i}`, makeImage([10]));
  const flaky = switchable(hub);
  const aggregate = joined(local, [{ name: "hub", source: flaky.registry }]);
  const broken = await copyToLocal(aggregate, "all", {
    concurrency: 1,
    progress: ({ done }) => {
      flaky.down = done >= 2;
    },
  });
  expect(broken).toMatchObject({ complete: false, items: 6, done: 2, failed: { length: 4 } });
  flaky.down = false;
  expect(await copyToLocal(aggregate, "all")).toMatchObject({ complete: true });
});

test("bytes that are in the store already are linked once the origin has confirmed them", async () => {
  const image = await pushLinked("app", "1");
  await pushBlobs(localRegistry({ storage, name: "neighbour" }), "theirs", image);
  const { registry, calls } = spied(hub);
  expect(await copyToLocal(joined(local, []), "all")).toMatchObject({ complete: false });
  expect(await copyToLocal(joined(local, [{ name: "hub", source: registry }]), "all")).toMatchObject({ complete: true, bytes: 0 });
  expect(calls.filter((call) => call.startsWith("getBlob"))).toEqual([]);
});

describe("referrers", () => {
  const subject = (image: { digest: string; manifest: Uint8Array }) => ({
    subject: { mediaType: mediaTypes.ociManifest, digest: image.digest, size: image.manifest.byteLength },
  });
  async function refer(registry: Registry, to: { digest: string; manifest: Uint8Array }, size: number) {
    const referrer = makeImage([size], subject(to));
    await pushBlobs(registry, "app", referrer);
    await put(registry, "app", referrer.digest, referrer.manifest);
    return referrer;
  }
  const referrersHere = async ({ digest }: { digest: string }) =>
    orThrow(await local.listReferrers("app", digest, { limit: 100 })).items.map((item) => item.digest);

  test("come with what has a tag, those of an index's children and those of referrers too, and can be read without the connector", async () => {
    const [amd, arm] = [await pushImage(hub, "app", "amd"), await pushImage(hub, "app", "arm")];
    const index = makeIndex([amd, arm]);
    await put(hub, "app", "1", index.bytes);
    const ofIndex = await refer(hub, { digest: index.digest, manifest: index.bytes }, 10);
    const signature = await refer(hub, arm, 11);
    const attestation = await refer(hub, signature, 12);
    const report = await copyToLocal(joined(local, [{ name: "hub", source: hub }]), { repository: "app", reference: "1" });
    expect(report).toMatchObject({ complete: true, warnings: [] });
    expect(await referrersHere(index)).toEqual([ofIndex.digest]);
    expect(await referrersHere(arm)).toEqual([signature.digest]);
    expect(await referrersHere(signature)).toEqual([attestation.digest]);
    expect(await findDangling(joined(local, []))).toMatchObject({ dangling: [], unknown: [] });
    for (const { blobs } of [ofIndex, signature, attestation])
      for (const digest of blobs.keys()) expect((await local.getBlob("app", digest)).kind).toBe("found");
  });

  test.each(["all", { repository: "app" }, { connector: "hub" }] as const)(
    "that were added after their image was copied come with the next call, for %j",
    async (selection) => {
      const image = await pushImage(hub, "app", "1");
      const aggregate = joined(local, [{ name: "hub", source: hub }]);
      await copyToLocal(aggregate, { connector: "hub" });
      const late = await refer(hub, image, 10);
      expect(await referrersHere(image)).toEqual([]);
      expect(await copyToLocal(aggregate, selection)).toMatchObject({ complete: true });
      expect(await referrersHere(image)).toEqual([late.digest]);
      expect(await copyToLocal(aggregate, selection)).toMatchObject({ complete: true, bytes: 0 });
    },
  );

  test("of more than a page all come", async () => {
    const image = await pushImage(hub, "app", "1");
    for (let size = 1; size <= 130; size++) await refer(hub, image, size);
    await copyToLocal(joined(local, [{ name: "hub", source: hub }]), { connector: "hub" });
    expect(await referrersHere(image)).toHaveLength(100);
    expect(orThrow(await local.listReferrers("app", image.digest, { limit: 1000 })).items).toHaveLength(130);
  });

  test("that cannot be listed or had do not keep the image away, and are told", async () => {
    const image = await pushImage(hub, "app", "1");
    const signature = await refer(hub, image, 10);
    await hub.deleteBlob("app", signature.config.digest);
    const report = await copyToLocal(joined(local, [{ name: "hub", source: hub }]), { connector: "hub" });
    expect(report).toMatchObject({
      complete: false,
      failed: [{ reference: { digest: signature.config.digest } }, { reference: { digest: signature.digest } }],
    });
    expect((await local.resolveManifest("app", "1")).kind).toBe("found");
    const silent: Registry = {
      ...hub,
      listReferrers: async () => ({ kind: "unavailable", error: new RegistryError("UNAVAILABLE", "no time") }),
    };
    const other = localRegistry({ storage: memoryStorage(), name: "other" });
    const unlisted = await copyToLocal(joined(other, [{ name: "hub", source: silent }]), { connector: "hub" });
    expect(unlisted).toMatchObject({ complete: false, failed: [], warnings: [expect.stringContaining("no time")] });
    expect((await other.resolveManifest("app", "1")).kind).toBe("found");
  });

  test("that lead to each other without end are followed for some steps only", async () => {
    let last: { digest: string; manifest: Uint8Array } = await pushImage(hub, "app", "1");
    const chain: string[] = [];
    for (let size = 1; size <= 20; size++) {
      last = await refer(hub, last, size);
      chain.push(last.digest);
    }
    await copyToLocal(joined(local, [{ name: "hub", source: hub }]), { connector: "hub" });
    const here = await Promise.all(chain.map(async (digest) => (await local.resolveManifest("app", digest)).kind === "found"));
    expect(here[0]).toBe(true);
    expect(here.at(-1)).toBe(false);
  });

  test("stay away where the caller says so, and untagged manifests always do", async () => {
    const image = await pushImage(hub, "app", "1");
    await refer(hub, image, 10);
    const untagged = makeImage([77]);
    await pushBlobs(hub, "app", untagged);
    await put(hub, "app", untagged.digest, untagged.manifest);
    const aggregate = joined(local, [{ name: "hub", source: hub }]);
    await copyToLocal(aggregate, { connector: "hub" }, { referrers: false });
    expect(await referrersHere(image)).toEqual([]);
    await copyToLocal(aggregate, { connector: "hub" });
    expect((await local.resolveManifest("app", untagged.digest)).kind).toBe("absent");
  });
});

test("a report that keeps no failure is not complete for that", async () => {
  await pushLinked("app", "1");
  expect(await copyToLocal(joined(local, []), "all", { limit: 0 })).toMatchObject({ complete: false, failed: [], omitted: 3 });
});
