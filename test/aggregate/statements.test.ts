import { type BlobContent, type Connector, type Lookup, localRegistry, type Registry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { parseDigest } from "../../src/core/digest.js";
import { found } from "../../src/core/lookup.js";
import { recordKey } from "../../src/core/records.js";
import { makeImage, pushBlobs } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { spied } from "../fixtures/spy.js";
import { failing, joined, store } from "./support.js";

/** A source that states one size for every digest, and gives nothing. */
function stating(size: number): Registry {
  return {
    ...store("liar"),
    resolveBlob: async (_, digest) =>
      found({ mediaType: "application/octet-stream", digest: parseDigest(digest), size }, { member: ["liar"] }),
  };
}

const connector = (source: Registry, name = "hub"): Connector => ({ name, source, copyToLocal: "never" });

test("a mount records no size that a member states, and a quota does not count it", async () => {
  const local = localRegistry({ storage: memoryStorage(), name: "own", maxBytes: "1KiB" });
  const source = stating(10 ** 15);
  const all = joined([{ ...connector(source), reach: "links" }], { local });
  const digest = digestOf(Buffer.from("x"));
  expect(await all.mountBlob("app", digest, { registry: source, repository: "theirs" })).toBeDefined();
  expect((await local.listBlobReferences("app", { limit: 9 })).items).toEqual([
    { descriptor: { mediaType: "application/octet-stream", digest }, origin: { member: "hub", repository: "theirs" } },
  ]);
  expect((await local.usage({ recount: true })).bytes).toBe(0);
  expect(await all.mountBlob("other", digest, { registry: all, repository: "app" })).toEqual({
    mediaType: "application/octet-stream",
    digest,
  });
});

test("what a manifest says and a member states alike becomes a blob reference with that size, which a quota counts", async () => {
  const local = localRegistry({ storage: memoryStorage(), name: "own", maxBytes: "1MiB" });
  const source = store("hub");
  const image = makeImage([100_000]);
  await pushBlobs(source, "app", image);
  await joined([connector(source)], { local }).putManifest("app", "1", { bytes: image.manifest });
  const sizes = [...image.blobs.values()].reduce((sum, { byteLength }) => sum + byteLength, image.manifest.byteLength);
  expect((await local.usage()).bytes).toBe(sizes);
});

test("a blob reference that an older version made with the size that was stated counts only for a manifest that agrees", async () => {
  const storage = memoryStorage();
  const local = localRegistry({ storage, name: "own" });
  const image = makeImage([100_000]);
  const { digest } = image.layers[0] ?? image.config;
  const [[config, bytes] = ["", Buffer.alloc(0)]] = image.blobs;
  await local.putBlob("app", { digest: config }, chunksOf(bytes));
  const put = recordKey.link("own", "app", parseDigest(digest));
  await storage.metadata.commit([], [{ put, value: { size: 1270, linkedAt: 0, origin: { member: "hub", repository: "app" } } }]);
  const all = joined([connector(stating(1270))], { local });
  expect(await all.resolveBlob("app", digest)).toMatchObject({ kind: "found" });
  await expect(all.putManifest("app", "1", { bytes: image.manifest })).rejects.toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
  expect((await all.resolveBlob("app", digest)).kind).toBe("absent");
  await pushBlobs(all, "app", image);
  await all.putManifest("app", "1", { bytes: image.manifest });
  expect((await all.getBlob("app", digest)).kind).toBe("found");
});

test("once a GET has verified the bytes, their size counts in place of what the member goes on to state", async () => {
  const image = makeImage([100_000]);
  const digest = image.layers[0]?.digest ?? "";
  const source: Registry = { ...store("hub"), resolveBlob: stating(2).resolveBlob };
  await pushBlobs(source, "app", image);
  const local = store("own");
  const all = joined([connector(source)], { local });
  await expect(all.putManifest("app", "1", { bytes: image.manifest })).rejects.toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
  for (const one of image.blobs.keys()) {
    expect((await all.resolveBlob("app", one)).kind).toBe("absent");
    // A part proves nothing.
    await bytesOf(await all.getBlob("app", one, { range: { start: 0, end: 9 } }));
    expect((await all.resolveBlob("app", one)).kind).toBe("absent");
    expect(await all.mountBlob("app", one, { registry: source, repository: "app" })).toBeUndefined();
    await bytesOf(await all.getBlob("app", one));
  }
  expect(await all.resolveBlob("app", digest)).toMatchObject({ kind: "found", value: { size: 100_000 } });
  const wrong = image.manifest.toString().replace('"size":100000', '"size":99999');
  await expect(all.putManifest("app", "2", { bytes: Buffer.from(wrong) })).rejects.toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
  expect((await all.resolveBlob("app", digest)).kind).toBe("found");
  await all.putManifest("app", "1", { bytes: image.manifest });
  expect((await local.listBlobReferences("app", { limit: 9 })).items.every(({ origin }) => origin?.member === "hub")).toBe(true);
});

test("of several members one that agrees with the manifest is enough, and a mismatch outweighs a member that cannot be asked", async () => {
  const right = store("right");
  const image = makeImage([100_000]);
  await pushBlobs(right, "app", image);
  const local = store("own");
  const all = joined([connector(stating(2), "liar"), connector(failing("UNAVAILABLE"), "down"), connector(right, "right")], { local });
  await all.putManifest("app", "1", { bytes: image.manifest });
  expect((await local.listBlobReferences("app", { limit: 9 })).items.map(({ origin }) => origin?.member)).toEqual(["right", "right"]);
  const without = joined([connector(stating(2), "liar"), connector(failing("UNAVAILABLE"), "down")]);
  await expect(without.putManifest("app", "1", { bytes: image.manifest })).rejects.toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
});

test("a member that states the size of a small blob and cannot be read fails the push for now, and the client sends it the next time", async () => {
  const source = store("hub");
  const image = makeImage([10]);
  await pushBlobs(source, "app", image);
  const { getBlob } = failing("TOOMANYREQUESTS", 7);
  const all = joined([connector({ ...source, getBlob })]);
  await expect(all.putManifest("app", "1", { bytes: image.manifest })).rejects.toMatchObject({ code: "TOOMANYREQUESTS", retryAfter: 7 });
  expect((await all.resolveBlob("app", image.config.digest)).kind).toBe("absent");
});

test("a blob that is larger than 64 KiB is not read when a manifest is pushed, and one that is known not asked for again", async () => {
  const { registry: source, calls } = spied(store("hub"));
  const image = makeImage([100_000]);
  await pushBlobs(source, "app", image);
  const all = joined([connector(source)]);
  calls.length = 0;
  await all.putManifest("app", "1", { bytes: image.manifest });
  const [config, layer] = [image.config.digest, image.layers[0]?.digest];
  expect(calls).toEqual([`resolveBlob app ${config}`, `getBlob app ${config}`, `resolveBlob app ${layer}`]);
  await all.putManifest("app", "2", { bytes: image.manifest });
  expect(calls).toHaveLength(3);
});

test("a pull that could not be written down as verified is whole, and told as a fault", async () => {
  const clock = fakeClock();
  const faults: string[] = [];
  const source = store("hub");
  const image = makeImage([100_000]);
  await pushBlobs(source, "app", image);
  const own = store("own");
  const distrust = { ...own.distrust(), get: async () => ({}), verified: async () => Promise.reject(new Error("disk")) };
  const events = { emit: (type: string, { message }: { message?: string }) => void (type === "fault" && faults.push(message ?? "")) };
  const all = joined([connector(source)], { local: { ...own, distrust: () => distrust }, clock, events: events as never });
  const lookup: Lookup<BlobContent> = await all.getBlob("app", image.layers[0]?.digest ?? "");
  if (lookup.kind !== "found" || lookup.value.content.kind !== "stream") throw new Error(lookup.kind);
  const bytes = Buffer.concat(await lookup.value.content.open().toArray());
  expect(digestOf(bytes)).toBe(image.layers[0]?.digest);
  expect(faults).toEqual([expect.stringContaining("disk")]);
});
