import { randomBytes } from "node:crypto";
import { type LocalRegistry, type LocalRegistryOptions, localRegistry, orThrow, type Storage } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, describe, expect, test } from "vitest";
import { makeImage, pushBlobs, pushImage } from "../fixtures/images.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

let storage: Storage = memoryStorage();
const limited = (o: Partial<LocalRegistryOptions> = {}) => localRegistry({ storage, name: "team", ...o });
const denied = (message: string) => expect.objectContaining({ code: "DENIED", status: 403, message: expect.stringContaining(message) });
const sizeOf = (image: ReturnType<typeof makeImage>) =>
  image.manifest.byteLength + [...image.blobs.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
async function put(registry: LocalRegistry, repository: string, bytes: Uint8Array) {
  return registry.putBlob(repository, { digest: digestOf(bytes), size: bytes.byteLength }, chunksOf(bytes));
}

beforeEach(() => {
  storage = memoryStorage();
});

describe("a quota of bytes", () => {
  test("counts blobs once however many repositories refer to them, and manifests; the error states quota and use", async () => {
    const registry = limited({ maxBytes: "1000B" });
    const blob = randomBytes(600);
    await put(registry, "one", blob);
    await put(registry, "two", blob);
    await put(registry, "two", blob);
    expect(await registry.usage()).toEqual({ bytes: 600, repositories: 0, quota: { bytes: 1000 } });
    const refused = await put(registry, "one", randomBytes(401)).catch((error: unknown) => error);
    expect(refused).toEqual(denied("quota of 1000 bytes, used 600: 401 more do not fit"));
    expect(refused).toMatchObject({ detail: { quota: { bytes: 1000 }, used: { bytes: 600 } } });
    await put(registry, "one", randomBytes(400));
    expect((await registry.usage()).bytes).toBe(1000);
  });

  test("mounts count; what is referred to already costs nothing; the last blob reference that is removed gives the bytes back", async () => {
    const registry = limited({ maxBytes: "1KiB" });
    const digest = digestOf(Buffer.alloc(1000));
    await put(registry, "one", Buffer.alloc(1000));
    const from = { registry, repository: "one" };
    expect(await registry.mountBlob("two", digest, from)).toMatchObject({ digest });
    expect((await registry.usage()).bytes).toBe(1000);
    await registry.deleteBlob("one", digest);
    expect((await registry.usage()).bytes).toBe(1000);
    await registry.deleteBlob("two", digest);
    expect((await registry.usage()).bytes).toBe(0);
    // From another registry of the storage, without a byte.
    const other = localRegistry({ storage, name: "other" });
    await put(registry, "one", Buffer.alloc(500));
    await put(other, "app", Buffer.alloc(1000));
    await expect(registry.mountBlob("one", digest, { registry: other, repository: "app" })).rejects.toEqual(denied("used 500"));
    const descriptor = { mediaType: "application/octet-stream", digest, size: 1000 };
    await expect(registry.addBlobReference("one", descriptor, { member: "hub", repository: "app" })).rejects.toEqual(denied("used 500"));
  });

  test("a refused upload survives and can be committed when something was deleted", async () => {
    const registry = limited({ maxBytes: "1KiB" });
    const old = randomBytes(1000);
    await put(registry, "app", old);
    const bytes = randomBytes(900);
    const session = await registry.startUpload("app");
    await session.append(chunksOf(bytes));
    await expect(session.commit(digestOf(bytes))).rejects.toEqual(denied("quota"));
    await registry.deleteBlob("app", digestOf(old));
    await (await registry.resumeUpload("app", session.id)).commit(digestOf(bytes));
    expect((await registry.usage()).bytes).toBe(900);
  });

  test("refuses a manifest too, takes tags, and gives back what is deleted", async () => {
    const [first, second] = [makeImage(), makeImage()];
    const blobs = sizeOf(second) - second.manifest.byteLength;
    const registry = limited({ maxBytes: `${sizeOf(first) + blobs + 10}B` });
    await pushImage(registry, "app", "1", first);
    await pushBlobs(registry, "app", second);
    await expect(registry.putManifest("app", "2", { bytes: second.manifest })).rejects.toEqual(denied("quota"));
    await registry.putManifest("app", "again", { bytes: first.manifest });
    await registry.deleteManifest("app", first.digest);
    expect(await registry.usage()).toMatchObject({ bytes: sizeOf(first) + blobs - first.manifest.byteLength, repositories: 0 });
    await registry.putManifest("app", "2", { bytes: second.manifest });
    expect(await registry.usage()).toEqual(await registry.usage({ recount: true }));
  });
});

test("a quota of repositories: another one is refused with its first layer, and a deleted one permits another", async () => {
  const registry = limited({ maxRepositories: 2 });
  const image = await pushImage(registry, "one", "1");
  await pushImage(registry, "two", "1");
  await pushImage(registry, "two", "2");
  await expect(put(registry, "three", randomBytes(10))).rejects.toEqual(denied("quota of 2 repositories, used 2"));
  await expect(registry.putManifest("three", "1", { bytes: image.manifest }, { references: "trust" })).rejects.toEqual(
    denied("repositories"),
  );
  await registry.deleteManifest("one", image.digest);
  await pushImage(registry, "three", "1");
  expect(await registry.usage()).toMatchObject({ repositories: 2, quota: { repositories: 2 } });
});

test.each(["memory", "files"])("concurrent pushes of two processes never exceed it (%s)", async (kind) => {
  storage = kind === "files" ? fileStorage(await temporaryFolder()) : storage;
  const processes = [limited({ maxBytes: "10KiB", maxRepositories: 3 }), limited({ maxBytes: "10KiB", maxRepositories: 3 })];
  const [one, two] = processes;
  if (!one || !two) throw new Error("two");
  const shared = randomBytes(1000);
  const outcomes = await Promise.allSettled(
    Array.from({ length: 40 }, async (_, index) => {
      const registry = index % 2 ? one : two;
      await put(registry, `r${index % 5}`, index % 4 ? randomBytes(700 + index) : shared);
    }),
  );
  const refused = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [outcome.reason] : []));
  for (const error of refused) expect(error).toEqual(denied("quota of 10240 bytes"));
  expect(refused.length).toBeGreaterThan(0);
  const used = await one.usage();
  expect(used.bytes).toBeLessThanOrEqual(10 * 1024);
  expect(used.bytes).toBeGreaterThan(9 * 1024);
  expect(await two.usage({ recount: true })).toEqual(used);
  await Promise.all(processes.map((registry) => registry.close()));
});

test("whatever is done at the same time, the count is what counting anew gives", async () => {
  const registry = limited({ maxBytes: "1GiB" });
  const images = Array.from({ length: 4 }, () => makeImage([10, 20]));
  const digests = images.flatMap(({ blobs }) => [...blobs.keys()]);
  const repositories = ["a", "b", "c"];
  const pick = <T>(all: readonly T[]): T => all[Math.floor(Math.random() * all.length)] as T;
  const step = async () => {
    const [image, repository, digest, from] = [pick(images), pick(repositories), pick(digests), pick(repositories)];
    const what = Math.random();
    if (what < 0.3) await pushImage(registry, repository, pick(["1", "2"]), image);
    else if (what < 0.5) await registry.mountBlob(repository, digest, { registry, repository: from });
    else if (what < 0.8) await registry.deleteBlob(repository, digest);
    else await registry.deleteManifest(repository, image.digest);
  };
  for (let round = 0; round < 20; round++) {
    await Promise.allSettled(Array.from({ length: 10 }, step));
    const used = await registry.usage();
    expect(await registry.usage({ recount: true }), `round ${round}`).toEqual(used);
  }
});

describe("the count", () => {
  test("of a registry without quota comes from its records", async () => {
    const registry = limited();
    const image = await pushImage(registry, "app", "1");
    await pushImage(registry, "other", "1", image);
    const bytes = sizeOf(image) + image.manifest.byteLength;
    expect(await registry.usage()).toEqual({ bytes, repositories: 2, quota: {} });
  });

  test("is made when a quota is given later, also after a time without one", async () => {
    await pushImage(limited(), "app", "1", makeImage([5000]));
    const registry = limited({ maxBytes: "6KiB" });
    await registry.ready();
    await expect(put(registry, "app", randomBytes(2000))).rejects.toEqual(denied("quota"));
    const without = limited();
    await without.ready();
    await put(without, "app", randomBytes(4000));
    const again = limited({ maxBytes: "20KiB" });
    expect(await again.usage()).toMatchObject({ bytes: (await without.usage()).bytes });
    // More than there may be: nothing is added, deleting works.
    const lowered = limited({ maxBytes: "1KiB" });
    await expect(put(lowered, "app", randomBytes(10))).rejects.toEqual(denied("quota of 1024 bytes"));
    const digest = orThrow(await lowered.resolveManifest("app", "1")).digest;
    await lowered.deleteManifest("app", digest);
  });

  test("runs over repositories of many pages", async () => {
    const registry = limited({ sparse: true, maxBytes: "1GiB" });
    const origin = { member: "hub", repository: "x" };
    for (let index = 0; index < 2100; index++) {
      const descriptor = { mediaType: "application/octet-stream", digest: digestOf(Buffer.from(String(index))), size: 1 };
      await registry.addBlobReference(index < 2050 ? "large" : `r${index}`, descriptor, origin);
    }
    expect((await registry.usage()).bytes).toBe(2100);
    expect((await registry.usage({ recount: true })).bytes).toBe(2100);
  });
});

test("limits that are no numbers throw", () => {
  expect(() => limited({ maxRepositories: Number.NaN })).toThrow("maxRepositories");
  expect(() => limited({ maxBytes: "much" as "1B" })).toThrow("is not a size");
});
