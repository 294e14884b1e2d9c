import { randomBytes } from "node:crypto";
import { localRegistry, mediaTypes, orThrow, type Registry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock, partBlobStore } from "oci-manifold/testing";
import { beforeEach, describe, expect, test } from "vitest";
import { makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

const clock = fakeClock();
let storage = memoryStorage();
let registry = localRegistry({ storage, name: "release", clock });
const code = (expected: string) => expect.objectContaining({ code: expected });

beforeEach(() => {
  storage = memoryStorage();
  registry = localRegistry({ storage, name: "release", clock });
});

describe("manifests", () => {
  test("are given back byte by byte, by tag and by digest", async () => {
    const image = await pushImage(registry, "team/app", "1.0");
    for (const reference of ["1.0", image.digest]) {
      const { bytes, descriptor } = orThrow(await registry.getManifest("team/app", reference));
      expect(Buffer.from(bytes)).toEqual(Buffer.from(image.manifest));
      expect(descriptor).toEqual({ mediaType: mediaTypes.ociManifest, digest: image.digest, size: image.manifest.byteLength });
    }
  });

  test("that refer to what is not here are refused, unless the registry is sparse", async () => {
    const image = makeImage();
    await expect(registry.putManifest("app", "1", { bytes: image.manifest })).rejects.toEqual(code("MANIFEST_BLOB_UNKNOWN"));
    expect((await registry.listTags("app", { limit: 10 })).kind).toBe("absent");
    const sparse = localRegistry({ storage, name: "sparse", sparse: true });
    await sparse.putManifest("app", "1", { bytes: image.manifest });
  });

  test("an index needs its children; a subject may be missing", async () => {
    const image = makeImage();
    const index = makeIndex([image]);
    await expect(registry.putManifest("app", "all", { bytes: index.bytes })).rejects.toEqual(code("MANIFEST_BLOB_UNKNOWN"));
    await pushImage(registry, "app", "1", image);
    await registry.putManifest("app", "all", { bytes: index.bytes });
    const subject = { mediaType: mediaTypes.ociManifest, digest: digestOf(Buffer.from("nowhere")), size: 7 };
    const signature = makeImage([10], { subject, artifactType: "application/x.sig" });
    await pushImage(registry, "app", "signature", signature);
    const referrers = orThrow(await registry.listReferrers("app", subject.digest, { limit: 10 }));
    expect(referrers.items).toEqual([expect.objectContaining({ digest: signature.digest, artifactType: "application/x.sig" })]);
    expect(orThrow(await registry.listReferrers("app", subject.digest, { limit: 10, artifactType: "other/type" })).items).toEqual([]);
  });

  test("a conditional delete happens only where the reference points to the digest", async () => {
    const [one, two] = [await pushImage(registry, "app", "1"), await pushImage(registry, "app", "2")];
    await expect(registry.deleteManifest("app", "1", { ifMatch: two.digest })).rejects.toEqual(code("PRECONDITION_FAILED"));
    await expect(registry.deleteManifest("app", one.digest, { ifMatch: two.digest })).rejects.toEqual(code("PRECONDITION_FAILED"));
    await expect(registry.deleteManifest("app", "3", { ifMatch: one.digest })).rejects.toEqual(code("MANIFEST_UNKNOWN"));
    await registry.deleteManifest("app", "1", { ifMatch: one.digest });
    await registry.deleteManifest("app", one.digest, { ifMatch: one.digest });
    expect(orThrow(await registry.listTags("app", { limit: 10 })).items).toEqual(["2"]);
  });

  test("deleting a tag leaves the manifest, deleting the manifest takes its tags, referrers entry and the empty repository", async () => {
    const image = await pushImage(registry, "app", "1");
    await registry.putManifest("app", image.digest, { bytes: image.manifest }, { tags: ["2", "3"] });
    await registry.deleteManifest("app", "1");
    expect(orThrow(await registry.listTags("app", { limit: 10 })).items).toEqual(["2", "3"]);
    await registry.deleteManifest("app", image.digest);
    expect((await registry.getManifest("app", "2")).kind).toBe("absent");
    expect((await registry.listTags("app", { limit: 10 })).kind).toBe("absent");
    expect(orThrow(await registry.listRepositories({ limit: 10 })).items).toEqual([]);
    await expect(registry.deleteManifest("app", image.digest)).rejects.toEqual(code("MANIFEST_UNKNOWN"));
  });

  test("a moved tag is not deleted with the manifest it left", async () => {
    const first = await pushImage(registry, "app", "latest");
    const second = await pushImage(registry, "app", "latest");
    await registry.deleteManifest("app", first.digest);
    expect(orThrow(await registry.resolveManifest("app", "latest")).digest).toBe(second.digest);
  });

  test("of two that delete the last manifests at the same time neither leaves an empty repository", async () => {
    const images = [await pushImage(registry, "app", "1"), await pushImage(registry, "app", "2")];
    await Promise.all(images.map((image) => registry.deleteManifest("app", image.digest)));
    expect(orThrow(await registry.listRepositories({ limit: 10 })).items).toEqual([]);
  });

  test("concurrent puts of one tag all succeed and agree", async () => {
    const images = Array.from({ length: 12 }, () => makeImage([10]));
    for (const image of images) await pushBlobs(registry, "app", image);
    await Promise.all(images.map((image) => registry.putManifest("app", "latest", { bytes: image.manifest })));
    const { digest } = orThrow(await registry.resolveManifest("app", "latest"));
    const loser = images.find((image) => image.digest !== digest);
    await registry.deleteManifest("app", loser?.digest ?? "");
    expect((await registry.resolveManifest("app", "latest")).kind).toBe("found");
  });

  test("of two writers with the same precondition one is refused", async () => {
    const [before, one, other] = [await pushImage(registry, "app", "latest"), makeImage([1]), makeImage([2])];
    for (const image of [one, other]) await pushBlobs(registry, "app", image);
    const put = (image: typeof one) => registry.putManifest("app", "latest", { bytes: image.manifest }, { ifMatch: before.digest });
    const outcomes = await Promise.allSettled([put(one), put(other)]);
    expect(outcomes.map((outcome) => outcome.status).sort()).toEqual(["fulfilled", "rejected"]);
    await expect(registry.putManifest("app", "latest", { bytes: one.manifest }, { ifNoneMatch: "*" })).rejects.toEqual(
      code("PRECONDITION_FAILED"),
    );
  });

  test("sha512 names what was pushed by sha512", async () => {
    const image = makeImage([5]);
    await pushBlobs(registry, "app", image);
    const digest = digestOf(image.manifest, "sha512");
    await registry.putManifest("app", digest, { bytes: image.manifest }, { tags: ["long"] });
    expect(orThrow(await registry.resolveManifest("app", "long")).digest).toBe(digest);
    await expect(registry.putManifest("app", digestOf(Buffer.from("x"), "sha512"), { bytes: image.manifest })).rejects.toEqual(
      code("DIGEST_INVALID"),
    );
  });
});

test("a write whose signal is aborted already begins nothing", async () => {
  const image = await pushImage(registry, "app", "1");
  const [reason, [layer]] = [new Error("the client left"), image.layers];
  const o = { signal: AbortSignal.abort(reason) };
  const digest = layer?.digest ?? "";
  const calls = [
    registry.putManifest("app", "2", { bytes: image.manifest }, o),
    registry.putBlob("app", { digest: digestOf(Buffer.from("x")) }, chunksOf(Buffer.from("x")), o),
    registry.mountBlob("other", digest, { registry, repository: "app" }, o),
    registry.startUpload("app", o),
    registry.resumeUpload("app", "0".repeat(32), o),
    registry.deleteManifest("app", "1", o),
    registry.deleteBlob("app", digest, o),
  ];
  for (const call of calls) await expect(call).rejects.toBe(reason);
  expect(orThrow(await registry.listTags("app", { limit: 9 })).items).toEqual(["1"]);
  expect((await registry.resolveBlob("other", digest)).kind).toBe("absent");
});

describe("bad input changes nothing", () => {
  test.each([
    ["a name", "NAME_INVALID", (r: Registry) => r.putManifest("Team/App", "1", { bytes: makeImage().manifest })],
    [
      "a name of a blob",
      "NAME_INVALID",
      (r: Registry) => r.putBlob("a//b", { digest: digestOf(Buffer.from("x")) }, chunksOf(Buffer.from("x"))),
    ],
    ["a name of an upload", "NAME_INVALID", (r: Registry) => r.startUpload("../etc")],
    ["a tag", "MANIFEST_INVALID", (r: Registry) => r.putManifest("app", "-1", { bytes: makeImage().manifest })],
    ["a digest", "DIGEST_INVALID", (r: Registry) => r.resolveBlob("app", "sha256:AB")],
    ["JSON", "MANIFEST_INVALID", (r: Registry) => r.putManifest("app", "1", { bytes: Buffer.from("{") })],
    ["a media type", "MANIFEST_INVALID", (r: Registry) => r.putManifest("app", "1", { bytes: Buffer.from("{}"), mediaType: "text/html" })],
    [
      "bytes of a blob",
      "DIGEST_INVALID",
      (r: Registry) => r.putBlob("app", { digest: digestOf(Buffer.from("x")) }, chunksOf(Buffer.from("y"))),
    ],
    [
      "the size of a blob",
      "SIZE_INVALID",
      (r: Registry) => r.putBlob("app", { digest: digestOf(Buffer.from("x")), size: 2 }, chunksOf(Buffer.from("x"))),
    ],
  ])("%s", async (_, expected, run) => {
    await expect(run(registry)).rejects.toEqual(code(expected));
    expect(orThrow(await registry.listRepositories({ limit: 10 })).items).toEqual([]);
    expect((await storage.blobs.listStaged({ limit: 10 })).items).toEqual([]);
    expect((await storage.blobs.list({ limit: 10 })).items).toEqual([]);
  });
});

describe("blobs", () => {
  const bytes = randomBytes(300_000);
  const digest = digestOf(bytes);

  test("are visible only where they are linked, and stored once", async () => {
    await registry.putBlob("one", { digest }, chunksOf(bytes));
    expect((await registry.getBlob("two", digest)).kind).toBe("absent");
    await registry.mountBlob("two", digest, { registry, repository: "one" });
    await registry.putBlob("three", { digest }, chunksOf(bytes));
    expect(await bytesOf(await registry.getBlob("two", digest))).toEqual(bytes);
    expect((await storage.blobs.list({ limit: 10 })).items).toHaveLength(1);
    await registry.deleteBlob("one", digest);
    expect((await registry.resolveBlob("one", digest)).kind).toBe("absent");
    expect(await bytesOf(await registry.getBlob("three", digest))).toEqual(bytes);
    await expect(registry.deleteBlob("one", digest)).rejects.toEqual(code("BLOB_UNKNOWN"));
  });

  test("mounting what cannot be seen answers undefined", async () => {
    await registry.putBlob("one", { digest }, chunksOf(bytes));
    expect(await registry.mountBlob("two", digest, { registry, repository: "other" })).toBeUndefined();
    expect(await registry.mountBlob("two", digest, undefined, { permits: (repository) => repository !== "one" })).toBeUndefined();
    expect((await registry.resolveBlob("two", digest)).kind).toBe("absent");
  });

  test("ranges", async () => {
    await registry.putBlob("app", { digest }, chunksOf(bytes));
    expect(await bytesOf(await registry.getBlob("app", digest, { range: { start: 10, end: 19 } }))).toEqual(bytes.subarray(10, 20));
    expect(await bytesOf(await registry.getBlob("app", digest, { range: { last: 5 } }))).toEqual(bytes.subarray(-5));
    expect(orThrow(await registry.getBlob("app", digest, { range: { start: 299_990, end: 900_000 } })).range).toEqual({
      start: 299_990,
      end: 299_999,
      total: 300_000,
    });
    await expect(registry.getBlob("app", digest, { range: { start: 300_000 } })).rejects.toEqual(code("RANGE_INVALID"));
  });

  test("a blob reference without bytes says where they are", async () => {
    await registry.addBlobReference(
      "app",
      { mediaType: mediaTypes.octetStream, digest, size: 300_000 },
      { member: "hub", repository: "library/node" },
    );
    expect(await registry.getBlob("app", digest)).toMatchObject({ kind: "linked", origin: { member: "hub", repository: "library/node" } });
  });
});

describe.each([
  ["memory", () => memoryStorage().blobs],
  ["files", () => fileBlobStore(temporaryFolder())],
  ["parts of an object store", () => partBlobStore()],
])("uploads over %s", (_, blobs) => {
  const bytes = randomBytes(12_000_000);
  const digest = digestOf(bytes);
  let shared = { blobs: blobs(), metadata: memoryStorage().metadata };
  const node = () => localRegistry({ storage: shared, name: "release", clock });

  beforeEach(() => {
    shared = { blobs: blobs(), metadata: memoryStorage().metadata };
  });

  test("in one append, and committed twice", async () => {
    const one = node();
    const upload = await one.startUpload("app");
    expect(await upload.append(chunksOf(bytes))).toBe(bytes.byteLength);
    expect((await upload.commit(digest)).digest).toBe(digest);
    expect((await (await one.resumeUpload("app", upload.id)).commit(digest)).digest).toBe(digest);
    expect(digestOf(await bytesOf(await one.getBlob("app", digest)))).toBe(digest);
  });

  test("each request on another node", async () => {
    const { id } = await node().startUpload("app");
    for (let start = 0; start < bytes.byteLength; start += 5_000_000) {
      const upload = await node().resumeUpload("app", id);
      expect(upload.offset).toBe(start);
      await upload.append(chunksOf(bytes.subarray(start, start + 5_000_000)), { start });
    }
    await (await node().resumeUpload("app", id)).commit(digest);
    expect(digestOf(await bytesOf(await node().getBlob("app", digest)))).toBe(digest);
  });

  test("sha512 that was not announced, and a wrong digest on another node", async () => {
    const upload = await node().startUpload("app");
    await upload.append(chunksOf(bytes));
    await (await node().resumeUpload("app", upload.id)).commit(digestOf(bytes, "sha512"));
    const wrong = await node().startUpload("app");
    await wrong.append(chunksOf(bytes));
    await expect((await node().resumeUpload("app", wrong.id)).commit(digestOf(Buffer.from("x")))).rejects.toEqual(code("DIGEST_INVALID"));
    await expect(node().resumeUpload("app", wrong.id)).rejects.toEqual(code("BLOB_UPLOAD_UNKNOWN"));
    expect((await shared.blobs.list({ limit: 10 })).items).toHaveLength(1);
  });

  test("out of order appends nothing; a wrong length or a cut keeps what came", async () => {
    const one = node();
    const upload = await one.startUpload("app");
    await upload.append(chunksOf(Buffer.from("abc")));
    await expect(upload.append(chunksOf(Buffer.from("x")), { start: 5 })).rejects.toEqual(code("RANGE_INVALID"));
    await expect(upload.append(chunksOf(Buffer.from("def")), { start: 3, length: 2 })).rejects.toEqual(code("SIZE_INVALID"));
    expect(upload.offset).toBe(3);
    const cut = async function* () {
      yield Buffer.from("de");
      throw new Error("connection lost");
    };
    await expect(upload.append(cut(), { start: 3 })).rejects.toThrow("connection lost");
    const resumed = await one.resumeUpload("app", upload.id);
    expect(resumed.offset).toBe(5);
    await expect(resumed.append(chunksOf(Buffer.from("f")), { start: 5, length: 4 })).rejects.toEqual(code("SIZE_INVALID"));
    expect((await resumed.commit(digestOf(Buffer.from("abcdef")))).size).toBe(6);
  });

  test("one writer at a time; a silent one loses its right", async () => {
    const upload = await node().startUpload("app");
    let go = () => {};
    const gate = new Promise<void>((resolve) => {
      go = resolve;
    });
    let arrived = () => {};
    const first = new Promise<void>((resolve) => {
      arrived = resolve;
    });
    const slow = async function* () {
      yield Buffer.from("a");
      arrived();
      await gate;
      yield Buffer.from("b");
    };
    const writing = upload.append(slow());
    await first;
    const other = await node().resumeUpload("app", upload.id);
    await expect(other.append(chunksOf(Buffer.from("x")))).rejects.toEqual(code("UNAVAILABLE"));
    await clock.advance(16_000);
    await other.append(chunksOf(Buffer.from("xyz")));
    go();
    await expect(writing).rejects.toEqual(code("UNAVAILABLE"));
    expect((await (await node().resumeUpload("app", upload.id)).commit(digestOf(Buffer.from("xyz")))).size).toBe(3);
  });

  test("a slow writer that nobody replaced goes on", async () => {
    const upload = await node().startUpload("app");
    const slow = async function* () {
      yield Buffer.from("a");
      await clock.advance(100_000);
      yield Buffer.from("b");
    };
    expect(await upload.append(slow())).toBe(2);
    expect((await upload.commit(digestOf(Buffer.from("ab")))).size).toBe(2);
  });

  test("looking at one that is being written to does not disturb it, from here or from another node", async () => {
    const one = node();
    const upload = await one.startUpload("app");
    const watched = async function* () {
      yield bytes.subarray(0, 6_000_000);
      for (const looker of [one, node()]) {
        await new Promise((resolve) => setTimeout(resolve, 10));
        const seen = await looker.resumeUpload("app", upload.id);
        expect(seen.offset).toBeLessThanOrEqual(6_000_000);
        await expect(seen.append(chunksOf(Buffer.from("x")))).rejects.toEqual(code("UNAVAILABLE"));
        await expect(seen.commit(digest)).rejects.toEqual(code("UNAVAILABLE"));
      }
      yield bytes.subarray(6_000_000);
    };
    expect(await upload.append(watched())).toBe(bytes.byteLength);
    expect((await upload.commit(digest)).size).toBe(bytes.byteLength);
  });

  test("belong to their repository and caller, and expire", async () => {
    const one = node();
    const upload = await one.startUpload("app", { caller: { name: "ann" } });
    await expect(one.resumeUpload("other", upload.id, { caller: { name: "ann" } })).rejects.toEqual(code("BLOB_UPLOAD_UNKNOWN"));
    await expect(one.resumeUpload("app", upload.id, { caller: { name: "bob" } })).rejects.toEqual(code("BLOB_UPLOAD_UNKNOWN"));
    await expect(one.resumeUpload("app", "../../etc/passwd")).rejects.toEqual(code("BLOB_UPLOAD_UNKNOWN"));
    await upload.append(chunksOf(Buffer.from("abc")));
    await clock.advance(25 * 3_600_000);
    await expect(one.resumeUpload("app", upload.id, { caller: { name: "ann" } })).rejects.toEqual(code("BLOB_UPLOAD_UNKNOWN"));
    await one.ready();
    expect((await shared.blobs.listStaged({ limit: 10 })).items).toEqual([]);
  });

  test("one that is being written to is not swept, however long it takes", async () => {
    const one = node();
    const upload = await one.startUpload("app");
    const long = async function* () {
      for (let hours = 0; hours < 30; hours++) {
        yield Buffer.from("x");
        await clock.advance(3_600_000);
      }
      yield Buffer.from("y");
      await node().ready();
    };
    expect(await upload.append(long())).toBe(31);
    expect((await upload.commit(digestOf(Buffer.from(`${"x".repeat(30)}y`)))).size).toBe(31);
  });

  test("a commit that fails can be tried again at once", async () => {
    const one = node();
    const upload = await one.startUpload("app");
    await upload.append(chunksOf(Buffer.from("abc")));
    const { commit } = shared.metadata;
    let failures = 1;
    shared.metadata.commit = async (conditions, changes) => {
      const puts = changes.some((change) => "put" in change && change.put.kind === "link");
      if (puts && failures-- > 0) throw new Error("disk full");
      return commit.call(shared.metadata, conditions, changes);
    };
    await expect(upload.commit(digestOf(Buffer.from("abc")))).rejects.toThrow("disk full");
    expect((await (await one.resumeUpload("app", upload.id)).commit(digestOf(Buffer.from("abc")))).size).toBe(3);
  });

  test("cancel twice", async () => {
    const upload = await node().startUpload("app");
    await upload.cancel();
    await upload.cancel();
    await expect(upload.commit(digest)).rejects.toEqual(code("BLOB_UPLOAD_UNKNOWN"));
    expect((await shared.blobs.listStaged({ limit: 10 })).items).toEqual([]);
  });
});

test("listings come in pages", async () => {
  const image = makeImage([1]);
  for (const tag of ["b", "a", "B", "c-1"]) await pushImage(registry, "app", tag, image);
  expect(orThrow(await registry.listTags("app", { limit: 2 }))).toEqual({ items: ["B", "a"], next: "a" });
  expect(orThrow(await registry.listTags("app", { limit: 2, after: "a" }))).toEqual({ items: ["b", "c-1"] });
  expect(orThrow(await registry.listTags("app", { limit: 0 }))).toEqual({ items: [] });
  await pushImage(registry, "app-2", "x", image);
  await pushImage(registry, "app/z", "x", image);
  expect(orThrow(await registry.listRepositories({ limit: 10 })).items).toEqual(["app", "app-2", "app/z"]);
});

test("what a repository stores and refers to can be listed for upkeep", async () => {
  const images = [makeImage([1, 2]), makeImage([3])];
  for (const [index, image] of images.entries()) await pushImage(registry, "app", `${index}`, image);
  const far = { mediaType: mediaTypes.octetStream, digest: digestOf(Buffer.from("far")), size: 3 };
  await registry.addBlobReference("app", far, { member: "hub", repository: "library/node" });
  const digests = images.map((image) => image.digest).sort();
  const [first] = digests;
  expect(await registry.listManifests("app", { limit: 1 })).toMatchObject({ items: [{ digest: first }], next: first });
  expect((await registry.listManifests("app", { limit: 9 })).items.map((item) => item.digest)).toEqual(digests);
  const references = await registry.listBlobReferences("app", { limit: 9 });
  expect(references.items).toHaveLength(1 + images.reduce((sum, image) => sum + image.blobs.size, 0));
  expect(references.items.filter(({ origin }) => origin)).toEqual([
    { descriptor: far, origin: { member: "hub", repository: "library/node" } },
  ]);
  const page = await registry.listBlobReferences("app", { limit: 2 });
  const rest = await registry.listBlobReferences("app", { limit: 9, after: page.next ?? "" });
  expect([...page.items, ...rest.items]).toEqual(references.items);
  expect(await registry.listManifests("nowhere", { limit: 9 })).toEqual({ items: [] });
});

test("a page of manifests reads few of them at a time: they may be large, and a database has few connections", async () => {
  const storage = memoryStorage();
  const { get } = storage.metadata;
  let [reading, most] = [0, 0];
  storage.metadata.get = async (key) => {
    most = Math.max(most, ++reading);
    await new Promise(setImmediate);
    return get.call(storage.metadata, key).finally(() => reading--) as never;
  };
  const many = localRegistry({ storage, name: "many" });
  for (let index = 0; index < 40; index++) await pushImage(many, "app", `${index}`, makeImage([1]));
  most = 0;
  expect((await many.listManifests("app", { limit: 1000 })).items).toHaveLength(40);
  expect(most).toBe(8);
});
