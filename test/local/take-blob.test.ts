import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { allPages, type LocalRegistryOptions, localRegistry, RegistryError, type Storage } from "oci-manifold";
import { type BlobStore, chunksOf, digestOf } from "oci-manifold/extend";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryMetadataStore, memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, expect, test } from "vitest";
import { bytesOf } from "../fixtures/read.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

const data = randomBytes(50_000);
const expected = { digest: digestOf(data), size: data.byteLength };
let path: string;
let blobs: BlobStore;
let storage: Storage;

beforeEach(async () => {
  const folder = temporaryFolder();
  path = join(folder, "other");
  await writeFile(path, data);
  blobs = fileBlobStore(join(folder, "data"));
  storage = { blobs, metadata: memoryMetadataStore() };
});

const source = () => ({ kind: "file", path }) as const;
const registryWith = (o: Partial<LocalRegistryOptions> = {}) => localRegistry({ storage, name: "release", ...o });
const locations = async () => {
  const found: string[] = [];
  for await (const { location } of allPages((page) => blobs.list(page))) found.push(location);
  return found;
};

test("foreign bytes are a blob of the repository they are taken for, and of no other", async () => {
  const registry = registryWith();
  let read = 0;
  const taken = await registry.takeBlob("team/app", expected, source(), {
    read: (bytes) => {
      read += bytes;
    },
  });
  expect(taken).toMatchObject(expected);
  expect(read).toBe(data.byteLength);
  expect(await bytesOf(await registry.getBlob("team/app", expected.digest))).toEqual(data);
  expect((await registry.resolveBlob("team/other", expected.digest)).kind).toBe("absent");
});

test("other bytes than the digest says are refused, and nothing of them is left", async () => {
  const registry = registryWith();
  await writeFile(path, randomBytes(50_000));
  await expect(registry.takeBlob("team/app", expected, source())).rejects.toMatchObject({ code: "DIGEST_INVALID" });
  await writeFile(path, data);
  await expect(registry.takeBlob("team/app", { ...expected, size: 1 }, source())).rejects.toMatchObject({ code: "SIZE_INVALID" });
  expect(await locations()).toEqual([]);
  expect((await registry.resolveBlob("team/app", expected.digest)).kind).toBe("absent");
});

test("without verification nothing is read", async () => {
  const reading: BlobStore = {
    ...blobs,
    read: () => {
      throw new Error("it was read");
    },
  };
  const registry = registryWith({ storage: { ...storage, blobs: reading } });
  expect(await registry.takeBlob("team/app", expected, source(), { verify: false })).toMatchObject(expected);
});

test("a store that cannot says so", async () => {
  const registry = localRegistry({ storage: memoryStorage(), name: "release" });
  expect(await registry.takeBlob("team/app", expected, source())).toBeUndefined();
  expect(await registryWith().takeBlob("team/app", expected, { kind: "object", bucket: "images", key: "data" })).toBeUndefined();
});

test("bytes that are here already stay the only ones", async () => {
  const registry = registryWith();
  await registry.putBlob("team/first", expected, chunksOf(data));
  const before = await locations();
  expect(await registry.takeBlob("team/app", expected, source())).toMatchObject(expected);
  expect(await locations()).toEqual(before);
});

test("ten at the same time leave one copy", async () => {
  const registry = registryWith();
  await Promise.all(Array.from({ length: 10 }, (_, index) => registry.takeBlob(`team/app-${index}`, expected, source())));
  expect(await locations()).toHaveLength(1);
  for (let index = 0; index < 10; index++)
    expect(await bytesOf(await registry.getBlob(`team/app-${index}`, expected.digest))).toEqual(data);
});

test("a quota counts, and refuses before anything is copied", async () => {
  const registry = registryWith({ maxBytes: "40000B" });
  await expect(registry.takeBlob("team/app", expected, source())).rejects.toMatchObject({ code: "DENIED" });
  expect(await locations()).toEqual([]);
  const larger = registryWith({ maxBytes: "60000B" });
  await larger.takeBlob("team/app", expected, source());
  expect((await larger.usage()).bytes).toBe(50_000);
});

test("records that cannot be written leave nothing behind", async () => {
  const metadata = memoryMetadataStore();
  const failing = { ...metadata, commit: () => Promise.reject(new RegistryError("INSUFFICIENT_STORAGE", "no records today")) };
  const registry = registryWith({ storage: { blobs, metadata: failing } });
  await expect(registry.takeBlob("team/app", expected, source())).rejects.toThrow("no records today");
  expect(await locations()).toEqual([]);
});

test("records whose answer was lost keep their bytes", async () => {
  const metadata = memoryMetadataStore();
  const losing: typeof metadata = {
    ...metadata,
    async commit(conditions, changes) {
      await metadata.commit(conditions, changes);
      throw new Error("the line broke");
    },
  };
  await expect(registryWith({ storage: { blobs, metadata: losing } }).takeBlob("team/app", expected, source())).rejects.toThrow(
    "the line broke",
  );
  expect(await bytesOf(await registryWith({ storage: { blobs, metadata } }).getBlob("team/app", expected.digest))).toEqual(data);
});

test("a signal ends it while it verifies, and nothing is left", async () => {
  const controller = new AbortController();
  const read = () => controller.abort(new Error("enough"));
  await expect(registryWith().takeBlob("team/app", expected, source(), { signal: controller.signal, read })).rejects.toThrow("enough");
  expect(await locations()).toEqual([]);
});
