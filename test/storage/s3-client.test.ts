import { randomBytes } from "node:crypto";
import { localRegistry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { s3BlobStore } from "oci-manifold/storage/s3";
import { blobStoreContract } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { mostParts, partSize, partsInFlight } from "../../src/storage/s3/part-size.js";
import { decodeState, encodeState, noParts, sealed } from "../../src/storage/s3/upload-state.js";
import { FakeS3, fakeSdk, s3Failure } from "./fake-s3.js";
import { freshForEveryCall } from "./fresh-for-every-call.js";
import { bytesOf, id, inChunks, MiB, stagedKeys, stored, storeOf } from "./s3-support.js";

describe("blob store: S3, a fake client", () => {
  const createFull = async () => {
    const client = new FakeS3();
    let full = true;
    client.intercept = async ({ command, input, answer }) => {
      if (full && command === "PutObject" && input.Key.endsWith(".tail")) throw s3Failure("QuotaExceeded", 403);
      return answer();
    };
    const free = async () => {
      full = false;
    };
    return { store: storeOf(client), free, dispose: async () => {} };
  };
  // The other cases need memory.
  const create = async () => ({ store: storeOf(new FakeS3()), dispose: async () => {} });
  blobStoreContract({ test, create, createFull });
});

describe("blob store: S3, a fake client, another node for every request, three keys a page", () => {
  const create = async () => {
    const client = new FakeS3();
    client.listedAtOnce = 3;
    return { store: freshForEveryCall(() => storeOf(client)), dispose: async () => {} };
  };
  blobStoreContract({ test, create });
});

describe("parts", () => {
  const sizes = Array.from({ length: mostParts }, (_, index) => partSize(index + 1));

  test("10,000 of them hold the 5 TiB of the largest object", () => {
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeGreaterThanOrEqual(5 * 2 ** 40);
  });
  test("are as large as S3 wants them, never shrink, and are of one size for any usual layer", () => {
    expect(sizes.every((size, index) => size >= 5 * MiB && size <= 5 * 2 ** 30 && size >= (sizes[index - 1] ?? 0))).toBe(true);
    expect(new Set(sizes.slice(0, 1000))).toEqual(new Set([8 * MiB]));
  });
  test("are in memory four at a time, or 64 MiB of them, or one", () => {
    expect([8 * MiB, 16 * MiB, 32 * MiB, 800 * MiB].map(partsInFlight)).toEqual([4, 4, 2, 1]);
  });
  test("10,000 of them take a small state", () => {
    let parts = noParts;
    for (const size of sizes) parts = sealed(parts, { etag: "d41d8cd98f00b204e9800998ecf8427e", size });
    const upload = { id: "x".repeat(200), random: "0123456789abcdef" };
    const tail = Array.from({ length: 8 }, (_, index) => ({ random: `0123456789abcde${index}`, size: 80 * MiB }));
    const state = { upload, parts, tail };
    expect(JSON.stringify(encodeState(state)).length).toBeLessThan(1000);
    expect(decodeState(JSON.parse(JSON.stringify(encodeState(state))))).toEqual(state);
  });
  test("10,000 of them are listed by page for the commit", async () => {
    const client = new FakeS3();
    const upload = id();
    await storeOf(client).stage(upload);
    const part = (number: number) => ({ PartNumber: number, ETag: `"e${number}"`, Size: partSize(number), ChecksumCRC32: `c${number}` });
    let completed: object[] = [];
    client.intercept = async ({ command, input, answer }) => {
      if (command === "CompleteMultipartUpload") completed = (input.MultipartUpload as { Parts: object[] }).Parts;
      if (command !== "ListParts") return command === "CompleteMultipartUpload" ? {} : answer();
      const from = Number(input.PartNumberMarker) + 1;
      const to = Math.min(from + Number(input.MaxParts) - 1, mostParts);
      const Parts = Array.from({ length: to - from + 1 }, (_, index) => part(from + index));
      return { Parts, IsTruncated: to < mostParts, NextPartNumberMarker: String(to) };
    };
    let parts = noParts;
    for (let number = 1; number <= mostParts; number++) parts = sealed(parts, { etag: `e${number}`, size: partSize(number) });
    const state = encodeState({ upload: { id: "u", random: "0123456789abcdef" }, parts, tail: [] });
    const staged = await storeOf(client).reopen(upload, state);
    expect(staged.size).toBeGreaterThanOrEqual(5 * 2 ** 40);
    await staged.commit(digestOf(new Uint8Array()));
    // One to find the last part when the upload was reopened, ten for the commit.
    expect(client.countOf("ListParts")).toBe(11);
    expect(completed).toHaveLength(mostParts);
    // A service that keeps checksums wants to hear them again.
    expect(completed.at(-1)).toEqual({ PartNumber: mostParts, ETag: `"e${mostParts}"`, ChecksumCRC32: `c${mostParts}` });
  });
  test("a state of another kind of store is none of ours", async () => {
    const blobs = storeOf(new FakeS3());
    const staged = id();
    await blobs.stage(staged);
    await expect(blobs.reopen(staged, { size: 5 })).rejects.toMatchObject({ code: "BLOB_UPLOAD_UNKNOWN" });
  });
  test("up to four are on their way at a time, and count in order whichever is stored first", async () => {
    const client = new FakeS3();
    let running = 0;
    let most = 0;
    client.intercept = async ({ command, input, answer }) => {
      if (command !== "UploadPart") return answer();
      most = Math.max(most, ++running);
      await new Promise((resolve) => setTimeout(resolve, input.PartNumber % 4 === 1 ? 30 : 1));
      running--;
      return answer();
    };
    const data = randomBytes(60 * MiB);
    const staged = await storeOf(client).stage(id());
    const seen: number[] = [];
    await staged.append(inChunks(data, MiB), { progress: (size) => seen.push(size) });
    expect(most).toBe(4);
    expect(seen).toEqual([8, 16, 24, 32, 40, 48, 56, 60].map((size) => size * MiB));
    const location = await staged.commit(digestOf(data));
    expect((await bytesOf(storeOf(client).read(location))).equals(data)).toBe(true);
  });
  test("one that another writer stored in place of ours is noticed at the commit", async () => {
    const client = new FakeS3();
    const staged = await storeOf(client).stage(id());
    const data = randomBytes(17 * MiB);
    await staged.append(inChunks(data));
    for (const { parts } of client.uploads.values()) parts.set(2, randomBytes(8 * MiB));
    await expect(staged.commit(digestOf(data))).rejects.toMatchObject({ code: "BLOB_UPLOAD_INVALID" });
  });
});

describe("requests", () => {
  test("a small blob takes five, beside reading its tail when the memory was given to others", async () => {
    const client = new FakeS3();
    await stored(storeOf(client), randomBytes(1000));
    expect(client.asked.filter((command) => command !== "GetObject")).toEqual([
      "PutObject",
      "PutObject",
      "PutObject",
      "DeleteObject",
      "DeleteObject",
    ]);
    expect(stagedKeys(client)).toEqual([]);
  });
  test("what was answered for outlives a node that ends within the next append", async () => {
    const client = new FakeS3();
    const data = randomBytes(12 * MiB);
    const upload = id();
    const staged = await storeOf(client).stage(upload);
    await staged.append(inChunks(data.subarray(0, 9 * MiB)));
    const { state } = staged;
    await staged.append(inChunks(randomBytes(30 * MiB)));
    const again = await storeOf(client).reopen(upload, state);
    expect(again.size).toBe(9 * MiB);
    await again.append(inChunks(data.subarray(9 * MiB)));
    const location = await again.commit(digestOf(data));
    expect((await bytesOf(storeOf(client).read(location))).equals(data)).toBe(true);
    expect([stagedKeys(client), client.uploads.size]).toEqual([[], 0]);
  });
  test("an upload that lost its state is cleared away, where uploads are listed by whole key only, as on MinIO", async () => {
    const client = new FakeS3();
    client.intercept = async ({ command, input, answer }) => {
      const whole = [...client.uploads.values()].some(({ key }) => key === input.Prefix);
      return command === "ListMultipartUploads" && !whole ? {} : answer();
    };
    const upload = id();
    const staged = await storeOf(client).stage(upload);
    await staged.append(inChunks(randomBytes(20 * MiB)));
    await storeOf(client).discardStaged(upload);
    expect([stagedKeys(client), client.uploads.size]).toEqual([[], 0]);
    await expect(staged.append(inChunks(randomBytes(9 * MiB)))).rejects.toMatchObject({ code: "BLOB_UPLOAD_UNKNOWN" });
  });
  test("a registry over it", async () => {
    const registry = localRegistry({ storage: { blobs: storeOf(new FakeS3()), metadata: memoryStorage().metadata }, name: "release" });
    const data = randomBytes(20 * MiB);
    const upload = await registry.startUpload("app");
    await upload.append(inChunks(data.subarray(0, 11 * MiB)));
    await (await registry.resumeUpload("app", upload.id)).append(inChunks(data.subarray(11 * MiB)));
    await (await registry.resumeUpload("app", upload.id)).commit(digestOf(data));
    const found = await registry.getBlob("app", digestOf(data));
    if (found.kind !== "found" || found.value.content.kind !== "stream") throw new Error(found.kind);
    expect((await bytesOf(found.value.content.open())).equals(data)).toBe(true);
  });
});

test("presigned URLs say what to answer, from the client that pullers reach", async () => {
  const outside = new FakeS3();
  const getSignedUrl = async (client: unknown, command: { input: object }, o: object) =>
    JSON.stringify({ outside: client === outside, ...command.input, ...o });
  const presigner = { getSignedUrl: getSignedUrl as never };
  const blobs = s3BlobStore({ client: new FakeS3(), sdk: fakeSdk, bucket: "images", prefix: "/a/b/", presign: outside, presigner });
  expect(blobs.capabilities).toEqual({ readStaged: false, presign: true });
  const location = await stored(blobs, randomBytes(10));
  expect(JSON.parse((await blobs.presign?.(location, { expiresIn: 60 })) ?? "")).toEqual({
    outside: true,
    Bucket: "images",
    Key: `a/b/${location}`,
    ResponseContentType: "application/octet-stream",
    expiresIn: 60,
  });
});
