import { randomBytes } from "node:crypto";
import { readdirSync } from "node:fs";
import { appendFile, mkdir, readdir, rm, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileBlobStore, fileStorage } from "oci-manifold/storage/files";
import { fakeClock } from "oci-manifold/testing";
import { afterEach, beforeEach, expect, test } from "vitest";
import { digestOf } from "../../src/core/digest.js";
import { bytesOf, chunked, newId, store } from "../../src/testing/blob-fixtures.js";
import { temporaryFolder } from "./temporary-folder.js";

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => folder.remove());

test("a path below a regular file fails at ready, clearly", async () => {
  const file = join(folder.path, "file");
  await writeFile(file, "");
  const storage = fileStorage(join(file, "data"));
  await expect(storage.blobs.ready()).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining(join(file, "data")) });
  await expect(storage.metadata.ready()).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("ENOTDIR") });
  await storage.metadata.close();
});

test("a folder that could not be used can be used once the reason is gone", async () => {
  const blobs = fileBlobStore(join(folder.path, "file", "data"));
  await writeFile(join(folder.path, "file"), "");
  await expect(blobs.ready()).rejects.toMatchObject({ code: "UNAVAILABLE" });
  await rm(join(folder.path, "file"));
  await blobs.ready();
});

test("what a crashed process staged is found and can go on", async () => {
  const id = newId();
  const data = randomBytes(100_000);
  const first = await fileBlobStore(folder.path).stage(id);
  await first.append(chunked(data.subarray(0, 60_000), 10_000));
  const { state } = first;
  // Half a write that nobody was told of.
  await appendFile(join(folder.path, "uploads", id), randomBytes(777));

  const blobs = fileBlobStore(folder.path);
  expect((await blobs.listStaged({ limit: 10 })).items).toMatchObject([{ id }]);
  const again = await blobs.reopen(id, state);
  expect(again.size).toBe(60_000);
  await again.append(chunked(data.subarray(60_000), 10_000));
  expect(await bytesOf(blobs.read(await again.commit(digestOf(data))))).toEqual(data);
});

test("a lost tail is a smaller size", async () => {
  const id = newId();
  const blobs = fileBlobStore(folder.path);
  const staged = await blobs.stage(id);
  await staged.append(chunked(randomBytes(10_000), 1000));
  await truncate(join(folder.path, "uploads", id), 4000);
  expect((await blobs.reopen(id, staged.state)).size).toBe(4000);
});

test("a commit that misses bytes on disk is refused", async () => {
  const id = newId();
  const blobs = fileBlobStore(folder.path);
  const staged = await blobs.stage(id);
  await staged.append(chunked(randomBytes(10_000), 1000));
  await truncate(join(folder.path, "uploads", id), 4000);
  await expect(staged.commit(digestOf(randomBytes(1)))).rejects.toMatchObject({ code: "BLOB_UPLOAD_INVALID" });
  expect((await blobs.list({ limit: 10 })).items).toEqual([]);
});

test("a torn blob fails on the stream instead of ending early", async () => {
  const blobs = fileBlobStore(folder.path);
  const location = await store(blobs, randomBytes(10_000));
  await truncate(join(folder.path, location), 4000);
  await expect(bytesOf(blobs.read(location, { range: { start: 0, end: 9_999 } }))).rejects.toMatchObject({ code: "UNKNOWN" });
});

test("a source's own ENOENT stays the source's", async () => {
  const staged = await fileBlobStore(folder.path).stage(newId());
  const failure = Object.assign(new Error("the source file is missing"), { code: "ENOENT" });
  const failing = (async function* () {
    yield randomBytes(10);
    throw failure;
  })();
  await expect(staged.append(failing)).rejects.toBe(failure);
  expect(staged.size).toBe(10);
});

test("an abort ends an append whose source is silent", async () => {
  const staged = await fileBlobStore(folder.path).stage(newId());
  const controller = new AbortController();
  const silent = (async function* () {
    yield randomBytes(10);
    await new Promise(() => {});
  })();
  const appending = staged.append(silent, { signal: controller.signal });
  setTimeout(() => controller.abort(new Error("gone")), 20);
  await expect(appending).rejects.toThrow("gone");
  expect(staged.size).toBe(10);
});

test.each(["../secret", "blobs/sha256/../../secret", "/etc/passwd", "blobs/sha256/ab/x", "uploads/x", ""])(
  "%j is no location",
  async (location) => {
    const blobs = fileBlobStore(folder.path);
    await blobs.ready();
    await expect(blobs.delete(location)).rejects.toMatchObject({ code: "BLOB_UNKNOWN" });
    await expect(bytesOf(blobs.read(location))).rejects.toMatchObject({ code: "BLOB_UNKNOWN" });
  },
);

test.each(["..", ".", "../x", "a/b", "", "a\0b"])("%j is no upload id", async (id) => {
  const blobs = fileBlobStore(folder.path);
  await expect(blobs.stage(id)).rejects.toMatchObject({ code: "BLOB_UPLOAD_INVALID" });
  await expect(blobs.discardStaged(id)).rejects.toMatchObject({ code: "BLOB_UPLOAD_INVALID" });
});

test("files that others put into the folders are not listed", async () => {
  const blobs = fileBlobStore(folder.path);
  const location = await store(blobs, randomBytes(10));
  await mkdir(join(folder.path, "blobs", "sha256", "zz"));
  await writeFile(join(folder.path, "blobs", "README"), "");
  await writeFile(join(folder.path, location.slice(0, location.lastIndexOf("/")), ".DS_Store"), "");
  expect((await blobs.list({ limit: 10 })).items).toMatchObject([{ location, size: 10 }]);
});

test("another clock than the system's stamps the files", async () => {
  const clock = fakeClock(Date.UTC(2030, 0, 1));
  const blobs = fileBlobStore(folder.path, { clock });
  const staged = await blobs.stage(newId());
  expect((await blobs.listStaged({ limit: 1 })).items[0]?.modifiedAt).toBe(clock.now());
  await clock.advance(60_000);
  await staged.commit(digestOf(new Uint8Array()));
  expect((await blobs.list({ limit: 1 })).items[0]?.modifiedAt).toBe(clock.now());
});

test("several stores over one folder see each other's blobs", async () => {
  const [one, other] = [fileStorage(folder.path), fileStorage(folder.path)];
  const data = randomBytes(1000);
  const location = await store(one.blobs, data);
  expect(await bytesOf(other.blobs.read(location))).toEqual(data);
  const key = { kind: "repository", parts: ["r", "app"] } as const;
  expect(await one.metadata.commit([{ key, is: "absent" }], [{ put: key, value: { updatedAt: 1 } }])).toBe(true);
  expect(await other.metadata.commit([{ key, is: "absent" }], [{ put: key, value: { updatedAt: 2 } }])).toBe(false);
  expect((await other.metadata.get(key))?.value.updatedAt).toBe(1);
  await one.metadata.close();
  expect((await other.metadata.get(key))?.value.updatedAt).toBe(1);
  await other.metadata.close();
});

test("nothing is created before the first use", async () => {
  fileStorage(join(folder.path, "data"));
  expect(await readdir(folder.path)).toEqual([]);
});

test("an old upload is told by its time", async () => {
  const id = newId();
  const blobs = fileBlobStore(folder.path);
  await blobs.stage(id);
  await utimes(join(folder.path, "uploads", id), 1000, 1000);
  expect((await blobs.listStaged({ limit: 1 })).items).toEqual([{ id, modifiedAt: 1_000_000 }]);
  expect((await stat(join(folder.path, "uploads", id))).size).toBe(0);
});

test.runIf(process.platform === "linux")("no file stays open", async () => {
  const storage = fileStorage(folder.path);
  await Promise.all([storage.blobs.ready(), storage.metadata.ready()]);
  const { blobs } = storage;
  const round = async () => {
    const data = randomBytes(2_000_000);
    const staged = await blobs.stage(newId());
    await staged.append(chunked(data, 65_536));
    const begun = staged.read?.({ start: 0, end: 1_999_999 });
    for await (const _ of begun ?? []) break;
    const location = await staged.commit(digestOf(data));
    await bytesOf(blobs.read(location));
    for await (const _ of blobs.read(location)) break;
    blobs.read(location).destroy();
    const opening = blobs.read(location);
    opening.read();
    opening.destroy();
    await blobs.delete(location);
    await bytesOf(blobs.read(location)).catch(() => {});
    const failing = await blobs.stage(newId());
    const broken = (async function* () {
      yield data;
      throw new Error("broken");
    })();
    await failing.append(broken).catch(() => {});
    await failing.abort();
    await failing.append(chunked(data, 1000)).catch(() => {});
  };
  const open = () => readdirSync("/proc/self/fd").length;
  await round();
  const before = open();
  await Promise.all(Array.from({ length: 10 }, round));
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(open()).toBeLessThanOrEqual(before);
  await storage.metadata.close();
});
