import { randomBytes } from "node:crypto";
import { localRegistry, type Storage } from "oci-manifold";
import { digestOf, parseDigest } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { beforeEach, describe, expect, test } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { makeImage, pushBlobs } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { put, store } from "../maintenance/support.js";

const bytes = randomBytes(1000);
const digest = digestOf(bytes);
const descriptor = { mediaType: "application/octet-stream", digest, size: bytes.byteLength };
const hour = 3_600_000;
const origin = { member: "hub", repository: "library/app" };
let clock: ReturnType<typeof fakeClock>;
let storage: Storage;
const registryOver = (over: Storage) => localRegistry({ storage: over, name: "release", clock });

beforeEach(() => {
  clock = fakeClock();
  storage = memoryStorage({ clock });
});

describe("a blob reference to bytes that are here is not replaced by one that leads elsewhere", () => {
  test.each(["mount", "mount without a source", "link"])("by a %s", async (how) => {
    const registry = registryOver(storage);
    await registry.addBlobReference("from", descriptor, origin);
    await store(registry, "app", digest, bytes);
    if (how === "link") await registry.addBlobReference("app", descriptor, origin);
    else
      await registry.mountBlob("app", digest, how === "mount" ? { registry, repository: "from" } : undefined, {
        permits: (name) => name === "from",
      });
    expect((await bytesOf(await registry.getBlob("app", digest))).equals(bytes)).toBe(true);
  });

  test.each(["mount", "link"])("by a %s, also when it comes in the middle of that", async (how) => {
    const registry = registryOver(storage);
    await registry.addBlobReference("from", descriptor, origin);
    const { commit } = storage.metadata;
    storage.metadata.commit = async (conditions, changes) => {
      storage.metadata.commit = commit;
      await store(registry, "app", digest, bytes);
      return commit(conditions, changes);
    };
    if (how === "link") await registry.addBlobReference("app", descriptor, origin);
    else expect(await registry.mountBlob("app", digest, { registry, repository: "from" })).toMatchObject({ digest });
    expect((await bytesOf(await registry.getBlob("app", digest))).equals(bytes)).toBe(true);
  });
});

describe("a blob reference that is made again", () => {
  const version = async (repository: string) =>
    (await storage.metadata.get(recordKey.link("release", repository, parseDigest(digest))))?.version;

  test.each(["mount", "push", "link"])("by a %s is the same record, within the hour", async (how) => {
    const registry = registryOver(storage);
    await store(registry, "from", digest, bytes);
    const make = async () => {
      if (how === "mount") return registry.mountBlob("app", digest, { registry, repository: "from" });
      return how === "push" ? store(registry, "app", digest, bytes) : registry.addBlobReference("app", descriptor);
    };
    await make();
    const first = await version("app");
    await clock.advance(hour - 1);
    await make();
    expect(await version("app")).toBe(first);
    await clock.advance(1);
    await make();
    expect(await version("app")).not.toBe(first);
    expect((await storage.metadata.get(recordKey.link("release", "app", parseDigest(digest))))?.value.usedAt).toBe(clock.now());
  });

  test("does not keep manifests from being put", async () => {
    const files = fileStorage(temporaryFolder());
    const registry = localRegistry({ storage: files, name: "release" });
    const image = makeImage([1000, 2000]);
    for (const repository of ["app", "base"]) await pushBlobs(registry, repository, image);
    let going = true;
    const mounting = async () => {
      while (going) for (const layer of image.layers) await registry.mountBlob("app", layer.digest, { registry, repository: "base" });
    };
    const mounts = [mounting(), mounting()];
    try {
      for (const tag of ["1", "2", "3"]) await put(registry, "app", tag, image.manifest);
    } finally {
      going = false;
      await Promise.all(mounts);
      await registry.close();
    }
  });
});
