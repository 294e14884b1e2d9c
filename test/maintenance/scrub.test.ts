import { randomBytes } from "node:crypto";
import { cp, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { cached, localRegistry } from "oci-manifold";
import { digestOf, type StoringRegistry } from "oci-manifold/extend";
import { scrub } from "oci-manifold/maintenance";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { bytesOf } from "../fixtures/read.js";
import {
  answering,
  type Damage,
  damageableFiles,
  damageableMemory,
  damages,
  failingRead,
  isRecorded,
  quarantined,
  replaceByFolder,
  storages,
} from "./scrub-support.js";
import { store } from "./support.js";

const rate = "1TiB";

async function push(registry: StoringRegistry, repository: string, size = 100_000): Promise<string> {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  await store(registry, repository, digest, bytes);
  return digest;
}

const whys: Record<Exclude<Damage, "delete">, RegExp> = {
  flip: /^its bytes are those of sha256:/,
  truncate: /^there are 99999 of its 100000 bytes$/,
  append: /^there are more than its 100000 bytes$/,
};

describe.each(Object.keys(storages) as (keyof typeof storages)[])("over %s", (kind) => {
  test("what is whole stays as it is, of every size and algorithm", async () => {
    const { storage } = storages[kind]();
    const local = localRegistry({ storage, name: "release" });
    const long = randomBytes(3_000_000);
    const sha512 = digestOf(long, "sha512");
    await store(local, "app", sha512, long);
    const digests = [await push(local, "app", 0), await push(local, "app", 1), await push(local, "app", 70_000), sha512];
    const before = await storage.metadata.page({ kind: "blob", under: [], limit: 10 });
    const report = await scrub(storage, { rate });
    expect(report).toMatchObject({ checked: 4, bytes: 3_070_001, corrupt: [], missing: [], unreadable: [], lost: [], omitted: 0 });
    expect(await storage.metadata.page({ kind: "blob", under: [], limit: 10 })).toEqual(before);
    for (const digest of digests)
      expect(digestOf(await bytesOf(await local.getBlob("app", digest)), digest === sha512 ? "sha512" : "sha256")).toBe(digest);
  });

  test.each(["flip", "truncate", "append"] as const)("%s: nobody gets the bytes any more, and they stay for inspection", async (how) => {
    const { storage, damage, locationOf } = storages[kind]();
    const clock = fakeClock();
    const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
    const hub = cached(origin, { storage, name: "hub", clock });
    const registries = ["one", "two", "three"].map((name) => localRegistry({ storage, name, clock }));
    const bytes = randomBytes(100_000);
    const digest = digestOf(bytes);
    for (const registry of [origin, ...registries]) await store(registry, "app", digest, bytes);
    await bytesOf(await hub.getBlob("app", digest));
    const other = await push(registries[0] as StoringRegistry, "app");
    const location = await locationOf(digest);
    await damage(digest, how);
    const { events, told } = damages();
    const report = await scrub(storage, { rate, clock, events });
    const finding = { digest, location, size: 100_000, why: expect.stringMatching(whys[how]) };
    expect(report).toMatchObject({ checked: 2, corrupt: [finding], missing: [], unreadable: [], healed: 0 });
    expect(report.lost).toMatchObject([
      { digest, repositories: { length: 3 }, omitted: 0, why: expect.stringContaining("nobody was given") },
    ]);
    expect(told).toEqual([{ ...finding, what: "corrupt", time: clock.now() }]);
    expect(await quarantined(storage)).toEqual([finding]);
    for (const registry of registries) {
      expect((await registry.resolveBlob("app", digest)).kind).toBe("absent");
      expect((await registry.getBlob("app", digest)).kind).toBe("absent");
      expect(await registry.holdsBlob(digest as never)).toBeUndefined();
      expect((await registry.listBlobReferences("app", { limit: 10 })).items.map(({ descriptor }) => descriptor.digest)).toContain(digest);
    }
    expect((await storage.blobs.list({ limit: 10 })).items.map((item) => item.location)).toContain(location);
    expect((await registries[0]?.resolveBlob("app", other))?.kind).toBe("found");
    expect(digestOf(await bytesOf(await hub.getBlob("app", digest)))).toBe(digest);
    for (const registry of registries) expect(digestOf(await bytesOf(await registry.getBlob("app", digest)))).toBe(digest);
    expect(await scrub(storage, { rate })).toMatchObject({ checked: 2, corrupt: [], missing: [], lost: [] });
    await hub.close();
  });

  test("what is missing is forgotten, and only where it was stays on record", async () => {
    const { storage, damage, locationOf } = storages[kind]();
    const local = localRegistry({ storage, name: "release" });
    const [digest] = [await push(local, "app"), await push(local, "app")];
    const location = await locationOf(digest);
    await damage(digest, "delete");
    const { events, told } = damages();
    const report = await scrub(storage, { rate, events });
    expect(report).toMatchObject({ checked: 2, corrupt: [], missing: [{ digest, location, size: 100_000 }], lost: [{ digest }] });
    expect(told).toMatchObject([{ digest, what: "missing" }]);
    expect(await quarantined(storage)).toEqual([]);
    expect((await local.resolveBlob("app", digest)).kind).toBe("absent");
    expect(await isRecorded(storage, digest)).toBe(false);
  });

  test("a dry run finds and tells the same, and changes nothing", async () => {
    const { storage, damage } = storages[kind]();
    const local = localRegistry({ storage, name: "release" });
    const [corrupt, missing] = [await push(local, "app"), await push(local, "app"), await push(local, "app")];
    await damage(corrupt, "flip");
    await damage(missing, "delete");
    const before = await storage.metadata.page({ kind: "blob", under: [], limit: 10 });
    const { events, told } = damages();
    const report = await scrub(storage, { rate, events, dryRun: true });
    expect(report).toMatchObject({ checked: 3, corrupt: [{ digest: corrupt }], missing: [{ digest: missing }], lost: [] });
    expect(told.map(({ what }) => what).sort()).toEqual(["corrupt", "missing"]);
    expect(await storage.metadata.page({ kind: "blob", under: [], limit: 10 })).toEqual(before);
    expect(await quarantined(storage)).toEqual([]);
  });
});

describe("what cannot be read", () => {
  test("is told and left as it is: a folder in the place of a file", async () => {
    const { storage, pathOf } = damageableFiles();
    const local = localRegistry({ storage, name: "release" });
    const [digest] = [await push(local, "app"), await push(local, "app")];
    await replaceByFolder(await pathOf(digest));
    const { events, told } = damages();
    const report = await scrub(storage, { rate, events });
    expect(report).toMatchObject({ checked: 2, corrupt: [], missing: [], lost: [], unreadable: [{ digest, twice: true }] });
    expect(report.unreadable[0]?.why).toContain("EISDIR");
    expect(told).toEqual([]);
    expect(await isRecorded(storage, digest)).toBe(true);
  });

  test.each(["EIO", "EACCES", "ECONNRESET"])("twice by %s is said to be so, once and then read is whole", async (code) => {
    const { storage, locationOf } = damageableMemory();
    const local = localRegistry({ storage, name: "release" });
    const [always, once] = [await push(local, "app"), await push(local, "app"), await push(local, "app")];
    const failures = new Map([
      [await locationOf(always), Number.POSITIVE_INFINITY],
      [await locationOf(once), 1],
    ]);
    answering(storage.blobs, (location) => {
      const left = failures.get(location) ?? 0;
      failures.set(location, left - 1);
      return left > 0 ? failingRead(code) : undefined;
    });
    const report = await scrub(storage, { rate });
    expect(report).toMatchObject({ checked: 3, corrupt: [], missing: [] });
    expect(report.unreadable).toMatchObject([{ digest: always, twice: true, why: `${code}: i/o error, read` }]);
    expect(await isRecorded(storage, always)).toBe(true);
  });

  test("a store that throws instead of failing on the stream", async () => {
    const { storage } = damageableMemory();
    await push(localRegistry({ storage, name: "release" }), "app");
    answering(storage.blobs, () => {
      throw new Error("no such driver");
    });
    expect(await scrub(storage, { rate })).toMatchObject({ unreadable: [{ twice: true, why: "no such driver" }] });
  });

  test("wrong bytes of which a second read knows nothing are not held against the store", async () => {
    const { storage, locationOf } = damageableMemory();
    const local = localRegistry({ storage, name: "release" });
    const digest = await push(local, "app");
    const location = await locationOf(digest);
    const { read } = storage.blobs;
    let reads = 0;
    answering(storage.blobs, (at) =>
      at === location && reads++ === 0
        ? read.call(storage.blobs, at).map((chunk: Buffer) => Buffer.alloc(chunk.byteLength, "x"))
        : undefined,
    );
    const report = await scrub(storage, { rate });
    expect(report).toMatchObject({ corrupt: [], unreadable: [{ digest, twice: false }] });
    expect(report.unreadable[0]?.why).toMatch(/^two reads do not agree: its bytes are those of .*; then its bytes are right$/);
    expect(await isRecorded(storage, digest)).toBe(true);
  });

  test("a store that holds nothing at all is not believed: its volume may not be mounted", async () => {
    const { storage, folder } = damageableFiles();
    const local = localRegistry({ storage, name: "release" });
    const digests = [await push(local, "app"), await push(local, "app")];
    const aside = join(folder, "aside");
    await cp(join(folder, "blobs"), aside, { recursive: true });
    await rm(join(folder, "blobs"), { recursive: true });
    await mkdir(join(folder, "blobs"));
    // This process has seen the right folder; one that starts now has not.
    expect((await scrub(storage, { rate })).unreadable[0]?.why).toContain("was replaced while it was in use");
    const started = fileStorage(folder);
    const report = await scrub(started, { rate });
    await started.metadata.close();
    expect(report).toMatchObject({ checked: 2, missing: [], unreadable: { length: 2 } });
    expect(report.unreadable[0]?.why).toContain("nor any other blob: is the volume or bucket the right one");
    await cp(aside, join(folder, "blobs"), { recursive: true });
    expect(await scrub(storage, { rate })).toMatchObject({ checked: 2, missing: [], unreadable: [] });
    for (const digest of digests) expect(digestOf(await bytesOf(await local.getBlob("app", digest)))).toBe(digest);
  });
});

test("lists stop at the limit, and the rest is counted", async () => {
  const { storage, damage } = damageableMemory();
  const local = localRegistry({ storage, name: "release" });
  for (let count = 0; count < 5; count++) await damage(await push(local, "app", 100), "flip");
  const report = await scrub(storage, { rate, limit: 2 });
  expect(report).toMatchObject({ checked: 5, corrupt: { length: 2 }, lost: { length: 2 }, omitted: 6 });
  expect(await quarantined(storage)).toHaveLength(5);
});
