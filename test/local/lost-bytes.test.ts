import { type EventSink, localRegistry, type Storage } from "oci-manifold";
import { chunksOf, digestOf, parseDigest } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, describe, expect, test } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { makeImage, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { put, rejection, store } from "../maintenance/support.js";

let storage: Storage;
let faults: string[];
const events: EventSink = {
  emit(type, event) {
    if (type === "fault" && "message" in event) faults.push(event.message ?? "");
  },
};
const registry = (name = "release") => localRegistry({ storage, name, events });

beforeEach(() => {
  storage = memoryStorage();
  faults = [];
});

const key = (digest: string) => recordKey.blob(parseDigest(digest));
/** As a scrub does with corrupt bytes. */
const takeOut = (digest: string) => storage.metadata.commit([{ key: key(digest), is: "present" }], [{ remove: key(digest) }]);

describe("a blob reference whose bytes are out of use", () => {
  test.each([100, 100_000])("is absent to whoever reads or mounts it, %i bytes, also where they were in memory", async (size) => {
    const [release, other] = [registry(), registry("other")];
    const image = await pushImage(release, "app", "1", makeImage([size]));
    const digest = image.layers[0]?.digest ?? "";
    await bytesOf(await release.getBlob("app", digest));
    await takeOut(digest);
    expect((await release.resolveBlob("app", digest)).kind).toBe("absent");
    expect((await release.getBlob("app", digest)).kind).toBe("absent");
    expect((await release.getBlob("app", digest, { range: { start: 0, end: 1 } })).kind).toBe("absent");
    expect(await release.holdsBlob(parseDigest(digest))).toBeUndefined();
    expect(await release.mountBlob("copy", digest, { registry: release, repository: "app" })).toBeUndefined();
    expect(await release.mountBlob("copy", digest)).toBeUndefined();
    expect(await other.mountBlob("app", digest, { registry: release, repository: "app" })).toBeUndefined();
    const blob = { mediaType: "application/octet-stream", digest: parseDigest(digest), size };
    expect(await rejection(other.addBlobReference("app", blob))).toMatchObject({ code: "BLOB_UNKNOWN" });
    expect(faults).toEqual([]);
  });

  test("a push to one repository brings it back to all that refer to it", async () => {
    const [release, other] = [registry(), registry("other")];
    const image = await pushImage(release, "app", "1", makeImage([100_000]));
    for (const there of [release, other]) await pushBlobs(there, "copy", image);
    const [digest, bytes] = [...image.blobs][1] ?? ["", Buffer.alloc(0)];
    await takeOut(digest);
    const session = await release.startUpload("new");
    await session.append(chunksOf(bytes));
    await session.commit(digest);
    const referring = [
      [release, "app"],
      [release, "copy"],
      [other, "copy"],
      [release, "new"],
    ] as const;
    for (const [there, repository] of referring) expect((await bytesOf(await there.getBlob(repository, digest))).equals(bytes)).toBe(true);
  });

  test("no manifest that needs it is taken until it is pushed again, whoever had said that it was there", async () => {
    const release = registry();
    const image = await pushImage(release, "app", "1");
    const layer = image.layers[0]?.digest ?? "";
    expect((await release.resolveBlob("app", layer)).kind).toBe("found");
    await takeOut(layer);
    expect(await rejection(put(release, "app", "2", image.manifest))).toMatchObject({
      code: "MANIFEST_BLOB_UNKNOWN",
      detail: { digest: layer },
    });
    expect((await release.resolveManifest("app", "2")).kind).toBe("absent");
    expect((await release.resolveManifest("app", "1")).kind).toBe("found");
    await store(release, "app", layer, image.blobs.get(layer) ?? Buffer.alloc(0));
    await put(release, "app", "2", image.manifest);
    // Whoever answers for the references is believed as before.
    await takeOut(layer);
    await put(release, "app", "3", image.manifest, true);
  });

  test("nor an index that lists it, while one of manifests needs no blob; what lies behind an origin is no reference to these bytes", async () => {
    const release = registry();
    const image = await pushImage(release, "app", "1");
    const [layer] = image.layers;
    if (!layer) throw new Error("no layer");
    const index = (child: object) =>
      Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [child] }));
    await takeOut(layer.digest);
    expect(await rejection(put(release, "app", "list", index(layer)))).toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
    const child = { mediaType: "application/vnd.oci.image.manifest.v1+json", digest: image.digest, size: image.manifest.byteLength };
    await put(release, "app", "list", index(child));
    await release.addBlobReference("app", layer, { member: "hub", repository: "app" });
    await put(release, "app", "2", image.manifest);
  });

  test("bytes that go while a manifest is put fail it", async () => {
    const release = registry();
    const image = makeImage();
    await pushBlobs(release, "app", image);
    const { commit } = storage.metadata;
    storage.metadata.commit = async (conditions, changes) => {
      storage.metadata.commit = commit;
      await takeOut(image.config.digest);
      return commit.call(storage.metadata, conditions, changes);
    };
    expect(await rejection(put(release, "app", "1", image.manifest))).toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
    expect((await release.resolveManifest("app", "1")).kind).toBe("absent");
  });

  test("still counts in a quota, and once when it is pushed again", async () => {
    const release = localRegistry({ storage, name: "release", maxBytes: "150KiB" });
    const bytes = Buffer.alloc(100 * 1024, "x");
    const digest = digestOf(bytes);
    await store(release, "app", digest, bytes);
    await takeOut(digest);
    expect(await release.usage()).toMatchObject({ bytes: 100 * 1024 });
    expect(await release.usage({ recount: true })).toMatchObject({ bytes: 100 * 1024 });
    await store(release, "app", digest, bytes);
    expect(await release.usage()).toMatchObject({ bytes: 100 * 1024 });
  });
});

describe("recorded bytes that cannot be read", () => {
  const lose = async (digest: string) => storage.blobs.delete((await storage.metadata.get(key(digest)))?.value.location ?? "");

  test.each([100, 100_000])("are told as a fault, %i bytes", async (size) => {
    const release = registry();
    const digest = digestOf(Buffer.alloc(size));
    await store(release, "app", digest, Buffer.alloc(size));
    await lose(digest);
    expect(await rejection(release.getBlob("app", digest).then(bytesOf))).toMatchObject({ code: "BLOB_UNKNOWN" });
    expect(faults).toEqual([expect.stringMatching(/^the bytes at sha256\/.* cannot be read: no blob is stored at /)]);
  });

  test("a small blob that has become shorter", async () => {
    const release = registry();
    const bytes = Buffer.from("small");
    await store(release, "app", digestOf(bytes), bytes);
    const { read } = storage.blobs;
    storage.blobs.read = (location) => read.call(storage.blobs, location, { range: { start: 0, end: 1 } });
    expect(await rejection(release.getBlob("app", digestOf(bytes)))).toBeInstanceOf(Error);
    expect(faults).toEqual([expect.stringContaining("does not have the 5 bytes")]);
  });

  test("a reader that gives up is no fault", async () => {
    const release = registry();
    const bytes = Buffer.alloc(1_000_000);
    await store(release, "app", digestOf(bytes), bytes);
    for (const error of [undefined, new Error("given up")]) {
      const lookup = await release.getBlob("app", digestOf(bytes));
      if (lookup.kind !== "found" || lookup.value.content.kind !== "stream") throw new Error("no stream");
      const stream = lookup.value.content.open();
      const closed = new Promise((resolve) => stream.once("close", resolve));
      stream.on("error", () => {}).destroy(error);
      await closed;
    }
    expect(faults).toEqual([]);
  });
});
