import { randomBytes } from "node:crypto";
import { aggregate, cached, localRegistry, type Storage } from "oci-manifold";
import { type Change, chunksOf, digestOf, parseDigest } from "oci-manifold/extend";
import { type CollectGarbageReport, collectGarbage } from "oci-manifold/maintenance";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryMetadataStore, memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { recordKey } from "../../../src/core/records.js";
import { makeImage, makeIndex, pushBlobs, pushImage } from "../../fixtures/images.js";
import { bytesOf, eventually } from "../../fixtures/read.js";
import { temporaryFolder } from "../../fixtures/temporary-folder.js";
import { recorder } from "../../http/support.js";
import { rejection } from "../support.js";
import { turns } from "./world.js";

const hours = (count: number) => count * 3_600_000;
const minute = 60_000;

function world(o: Partial<Parameters<typeof localRegistry>[0]> = {}) {
  const clock = fakeClock();
  const storage = memoryStorage({ clock });
  const registry = localRegistry({ storage, name: "release", clock, ...o });
  const put = async (repository: string, bytes: Uint8Array = randomBytes(1000)) =>
    (await registry.putBlob(repository, { digest: digestOf(bytes) }, chunksOf(bytes))).digest;
  return { clock, storage, registry, put };
}

/** A collection, with time going by as long as it waits. */
async function collected(
  { storage, clock }: { storage: Storage; clock: ReturnType<typeof fakeClock> },
  o: Parameters<typeof collectGarbage>[1] = {},
): Promise<CollectGarbageReport> {
  let over = false;
  const report = collectGarbage(storage, { clock, ...o }).finally(() => {
    over = true;
  });
  report.catch(() => {});
  while (!over) await clock.advance(minute);
  return report;
}

async function count(storage: Storage, kind: "link" | "linkByDigest" | "blob"): Promise<number> {
  return (await storage.metadata.page({ kind, under: [], limit: 1000 })).length;
}

async function stored(storage: Storage): Promise<number> {
  return (await storage.blobs.list({ limit: 1000 })).items.length;
}

describe("blob references and blobs", () => {
  test("what no manifest refers to goes after the grace, with its bytes; what one refers to stays, byte for byte", async () => {
    const all = world();
    const { registry, storage, clock, put } = all;
    const image = await pushImage(registry, "app", "1");
    const orphan = await put("app");
    const deleted = await pushImage(registry, "app", "2");
    await registry.deleteManifest("app", deleted.digest);
    await clock.advance(hours(23));
    expect(await collected(all)).toMatchObject({ blobReferences: { checked: 7, removed: 0 }, blobs: { checked: 7, removed: 0 }, bytes: 0 });
    await clock.advance(hours(1));
    const report = await collected(all);
    const gone = [orphan, deleted.config.digest, ...deleted.layers.map(({ digest }) => digest)];
    expect(report).toMatchObject({
      blobReferences: { checked: 7, removed: 4 },
      blobs: { checked: 7, removed: 4, bytes: report.bytes },
      omitted: 0,
    });
    expect(report.removed.filter(({ what }) => what === "blob").map(({ digest }) => digest)).toEqual([...gone].sort());
    expect(report.removed.filter(({ what }) => what === "blobReference").every(({ repository }) => repository === "app")).toBe(true);
    expect([
      await count(storage, "link"),
      await count(storage, "linkByDigest"),
      await count(storage, "blob"),
      await stored(storage),
    ]).toEqual([3, 3, 3, 3]);
    for (const [digest, bytes] of image.blobs) expect((await bytesOf(await registry.getBlob("app", digest))).equals(bytes)).toBe(true);
    expect((await registry.resolveBlob("app", orphan)).kind).toBe("absent");
    expect(await collected(all)).toMatchObject({
      blobReferences: { removed: 0 },
      blobs: { removed: 0 },
      locations: { deleted: 0 },
      bytes: 0,
    });
  });

  test("a blob of two repositories or two registries is removed with the last blob reference", async () => {
    const all = world();
    const other = localRegistry({ ...all, name: "other" });
    const bytes = randomBytes(500);
    await all.put("one", bytes);
    await all.put("two", bytes);
    await other.putBlob("three", { digest: digestOf(bytes) }, chunksOf(bytes));
    const image = makeImage([10]);
    await pushBlobs(other, "three", image);
    const manifest = JSON.parse(Buffer.from(image.manifest).toString());
    manifest.layers.push({ mediaType: "application/octet-stream", digest: digestOf(bytes), size: 500 });
    await other.putManifest("three", "1", { bytes: Buffer.from(JSON.stringify(manifest)) });
    await all.clock.advance(hours(25));
    expect(await collected(all)).toMatchObject({ blobReferences: { removed: 2 }, blobs: { removed: 0 } });
    await other.deleteManifest("three", digestOf(Buffer.from(JSON.stringify(manifest))));
    expect(await collected(all)).toMatchObject({ blobReferences: { removed: 3 }, blobs: { removed: 3 } });
    expect(await stored(all.storage)).toBe(0);
  });

  test("children that are blobs, non-distributable layers and configs are kept; a subject keeps nothing", async () => {
    const all = world();
    const { registry, clock, put } = all;
    const child = await put("app", Buffer.alloc(7, "c"));
    const foreign = await put("app", Buffer.alloc(8, "f"));
    const subject = await put("app", Buffer.alloc(9, "s"));
    const index = makeIndex([], {
      manifests: [{ mediaType: "application/vnd.buildkit.cacheconfig.v0", digest: child, size: 7 }],
      subject: { mediaType: "application/vnd.oci.image.manifest.v1+json", digest: subject, size: 9 },
    });
    await registry.putManifest("app", "cache", { bytes: index.bytes });
    const image = makeImage([]);
    await pushBlobs(registry, "app", image);
    const manifest = JSON.parse(Buffer.from(image.manifest).toString());
    manifest.layers = [{ mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", digest: foreign, size: 8 }];
    await registry.putManifest("app", "1", { bytes: Buffer.from(JSON.stringify(manifest)) });
    await clock.advance(hours(48));
    const { removed } = await collected(all);
    expect(removed.map(({ what, digest }) => [what, digest])).toEqual([
      ["blobReference", subject],
      ["blob", subject],
    ]);
  });

  test("where a manifest cannot be read, nothing of its repository goes, and it is told", async () => {
    const all = world();
    const sink = recorder();
    await all.put("app");
    const digest = digestOf(Buffer.from("{"));
    const key = recordKey.manifest("release", "app", digest);
    await all.storage.metadata.commit([], [{ put: key, value: { mediaType: "x/y", pushedAt: 0 }, bytes: Buffer.from("{") }]);
    await all.put("other");
    await all.clock.advance(hours(25));
    const report = await collected(all, { events: sink });
    expect(report).toMatchObject({ blobReferences: { removed: 1 }, blobs: { removed: 0 }, skipped: 1 });
    expect(sink.events.map(({ type, event }) => [type, "message" in event && event.message])).toEqual([
      [
        "fault",
        expect.stringContaining(
          `the blob references of app are left alone, and so are all blobs that no repository refers to, since ${digest} cannot be read`,
        ),
      ],
    ]);
  });

  test("a registry's record of use stays right", async () => {
    const all = world({ maxBytes: "1MiB" });
    const image = await pushImage(all.registry, "app", "1", makeImage([100]));
    await all.put("app", randomBytes(5000));
    await all.put("other", randomBytes(300));
    const before = (await all.registry.usage()).bytes;
    await all.clock.advance(hours(25));
    await collected(all);
    const after = await all.registry.usage();
    expect(before - after.bytes).toBe(5300);
    expect(await all.registry.usage({ recount: true })).toEqual(after);
    expect((await all.registry.resolveBlob("app", image.config.digest)).kind).toBe("found");
  });

  test("a count of use that began meanwhile is made again", async () => {
    const all = world();
    await all.put("app", randomBytes(5000));
    await all.put("app", randomBytes(5000));
    await all.clock.advance(hours(25));
    const limited = localRegistry({ ...all, name: "release", maxBytes: "1MiB" });
    let begun = false;
    const metadata = {
      ...all.storage.metadata,
      async commit(...[conditions, changes]: Parameters<Storage["metadata"]["commit"]>) {
        const done = await all.storage.metadata.commit(conditions, changes);
        if (!begun && changes.some((change) => "remove" in change && change.remove.kind === "link")) {
          begun = true;
          // As a count that had read the record before it was removed.
          const value = { bytes: 10_000, repositories: 0, countedAt: all.clock.now() };
          await all.storage.metadata.commit([], [{ put: recordKey.usage("release"), value }]);
        }
        return done;
      },
    };
    await collected({ storage: { ...all.storage, metadata }, clock: all.clock });
    await collected(all);
    expect((await limited.usage()).bytes).toBe(0);
  });
});

describe("what somebody relies on", () => {
  test("a HEAD that said yes keeps a blob for half the grace at least, and writes at most once an hour", async () => {
    const all = world();
    const { registry, clock, storage } = all;
    const image = makeImage([10]);
    await pushBlobs(registry, "app", image);
    const key = recordKey.link("release", "app", image.config.digest);
    const versions: number[] = [];
    for (let at = 0; at < 100; at++) {
      for (const [digest] of image.blobs) expect((await registry.resolveBlob("app", digest)).kind).toBe("found");
      versions.push((await storage.metadata.get(key))?.version ?? 0);
      await collected(all, { grace: "2h" });
      await clock.advance(minute * 29);
    }
    expect(new Set(versions).size).toBeLessThanOrEqual(51);
    await clock.advance(hours(1) - minute * 30);
    await collected(all, { grace: "2h" });
    expect(await registry.putManifest("app", "1", { bytes: image.manifest })).toBeDefined();
  });

  test("a HEAD of a young blob reference writes nothing; one in the background counts as no use", async () => {
    const { registry, clock, storage, put } = world();
    const digest = await put("app");
    const key = recordKey.link("release", "app", digest);
    const first = await storage.metadata.get(key);
    await clock.advance(hours(1) - 1);
    await registry.resolveBlob("app", digest);
    expect(await storage.metadata.get(key)).toEqual(first);
    await clock.advance(1);
    await registry.resolveBlob("app", digest, { priority: "background" });
    await registry.getBlob("app", digest);
    expect(await storage.metadata.get(key)).toEqual(first);
    await registry.resolveBlob("app", digest);
    expect((await storage.metadata.get(key))?.value.usedAt).toBe(clock.now());
  });

  test("a use that cannot be written is no yes", async () => {
    const { storage, clock, put } = world();
    const digest = await put("app");
    await clock.advance(hours(2));
    const metadata = { ...memoryMetadataStore(), ...storage.metadata, commit: () => Promise.reject(new Error("the disk is full")) };
    const registry = localRegistry({ storage: { ...storage, metadata }, name: "release", clock });
    expect(await rejection(registry.resolveBlob("app", digest))).toEqual(new Error("the disk is full"));
    expect((await registry.getBlob("app", digest)).kind).toBe("found");
  });

  test("a HEAD through a blob reference with an origin keeps it", async () => {
    const all = world();
    const source = localRegistry({ storage: memoryStorage(), name: "source", clock: all.clock });
    const bytes = randomBytes(100);
    const digest = digestOf(bytes);
    await source.putBlob("lib", { digest }, chunksOf(bytes));
    const joined = aggregate({
      local: all.registry,
      connectors: [{ name: "source", source, reach: "links", copyToLocal: "never" }],
      clock: all.clock,
    });
    await joined.mountBlob("app", digest, { registry: source, repository: "lib" });
    await all.clock.advance(hours(23));
    expect((await joined.resolveBlob("app", digest)).kind).toBe("found");
    await all.clock.advance(hours(23));
    expect(await collected(all)).toMatchObject({ blobReferences: { checked: 1, removed: 0 } });
    await all.clock.advance(hours(2));
    expect(await collected(all)).toMatchObject({ blobReferences: { checked: 1, removed: 1 } });
  });

  test("content that was answered can be opened half a minute later", async () => {
    const all = world();
    const bytes = randomBytes(100_000);
    const digest = await all.put("app", bytes);
    await all.clock.advance(hours(25));
    const running = collectGarbage(all.storage, { clock: all.clock });
    // Answered before the blob reference is removed.
    const lookup = await all.registry.getBlob("app", digest);
    await turns(100);
    await all.clock.advance(30_000);
    expect((await bytesOf(lookup)).equals(bytes)).toBe(true);
    await all.clock.advance(minute);
    await running;
    expect(await stored(all.storage)).toBe(0);
  });

  test("what a cache may evict is left to it", async () => {
    const all = world();
    const source = localRegistry({ storage: memoryStorage(), name: "source", clock: all.clock });
    const image = await pushImage(source, "app", "1", makeImage([1000]));
    const hub = cached(source, { storage: all.storage, name: "hub", clock: all.clock });
    await hub.getManifest("app", "1");
    await eventually(async () => (await hub.completeness("app", "1")).complete, "the image is whole");
    await source.putBlob("app", { digest: digestOf(Buffer.alloc(9)) }, chunksOf(Buffer.alloc(9)));
    await bytesOf(await hub.getBlob("app", digestOf(Buffer.alloc(9))));
    await all.clock.advance(hours(100));
    expect(await collected(all)).toMatchObject({ blobReferences: { checked: 3, removed: 0 }, blobs: { checked: 3, removed: 0 } });
    expect((await hub.completeness("app", image.digest)).complete).toBe(true);
  });
});

describe("orphans", () => {
  test("expired sessions of any registry and staged bytes without one go; sessions that can go on stay", async () => {
    const all = world();
    const { registry, clock, storage } = all;
    const other = localRegistry({ storage, name: "other", clock, uploadTimeToLive: "7d" });
    const expired = await registry.startUpload("app");
    await expired.append(chunksOf(randomBytes(10)));
    const living = await other.startUpload("app");
    await living.append(chunksOf(randomBytes(10)));
    await storage.blobs.stage("0".repeat(32));
    await clock.advance(hours(25));
    await storage.blobs.stage("1".repeat(32));
    const report = await collected(all);
    expect(report).toMatchObject({ uploads: { checked: 2, ended: 1 }, staged: { checked: 3, discarded: 1 } });
    expect(report.removed.map(({ what, place, size }) => [what, place, size])).toEqual([
      ["upload", expired.id, 10],
      ["staged", "0".repeat(32), undefined],
    ]);
    expect((await storage.blobs.listStaged({ limit: 9 })).items.map(({ id }) => id)).toEqual(["1".repeat(32), living.id].sort());
    expect(await living.append(chunksOf(randomBytes(5)))).toBe(15);
  });

  test("bytes that no record names go after the grace; those in quarantine after theirs, with the record; expired leases go", async () => {
    const all = world();
    const { storage, clock } = all;
    const image = await pushImage(all.registry, "app", "1");
    const unnamed = async () => {
      const staged = await storage.blobs.stage(randomBytes(16).toString("hex"));
      await staged.append(chunksOf(Buffer.alloc(70)));
      return staged.commit(digestOf(Buffer.alloc(70)));
    };
    const [lost, bad] = [await unnamed(), await unnamed()];
    const value = { size: 70, why: "its bytes are others", at: clock.now() };
    const lease = (name: string) => recordKey.lease("warm", name, "x");
    await storage.metadata.commit(
      [],
      [
        { put: recordKey.quarantine(digestOf(Buffer.alloc(1)), bad), value },
        { put: recordKey.distrusted("release", "app", digestOf(Buffer.alloc(2))), value: { at: clock.now() } },
        { put: lease("old"), value: { holder: "a", expiresAt: clock.now() + 1000 } },
        { put: lease("held"), value: { holder: "a", expiresAt: clock.now() + hours(10_000) } },
      ],
    );
    await clock.advance(hours(25));
    const young = await unnamed();
    const first = await collected(all);
    expect(first).toMatchObject({ locations: { deleted: 1, bytes: 70 }, quarantined: { removed: 0 }, leases: { removed: 1 }, bytes: 70 });
    expect(first.distrusted).toEqual({ checked: 1, removed: 0 });
    expect(first.removed).toEqual([{ what: "location", place: lost, size: 70, why: "no record names it" }]);
    expect(await storage.metadata.get(lease("held"))).toBeDefined();
    await clock.advance(hours(24 * 30));
    const second = await collected(all);
    expect(second).toMatchObject({ locations: { deleted: 1, bytes: 70 }, quarantined: { removed: 1, bytes: 70 }, bytes: 140 });
    expect(second.distrusted).toEqual({ checked: 1, removed: 1 });
    expect(second.removed.map(({ place }) => place)).toEqual([bad, young]);
    expect(await stored(storage)).toBe(3);
    expect((await all.registry.resolveBlob("app", image.config.digest)).kind).toBe("found");
  });

  test("a location that is recorded while it is taken for an orphan stays, or the record is refused", async () => {
    const all = world();
    const { storage, clock } = all;
    const bytes = randomBytes(50_000);
    const digest = digestOf(bytes);
    let full = true;
    const metadata = {
      ...storage.metadata,
      commit: (...[conditions, changes]: Parameters<Storage["metadata"]["commit"]>) =>
        full && changes.some((change) => "put" in change && change.put.kind === "blob")
          ? Promise.reject(new Error("the disk is full"))
          : storage.metadata.commit(conditions, changes),
    };
    const registry = localRegistry({ storage: { ...storage, metadata }, name: "release", clock, uploadTimeToLive: "9d" });
    const upload = await registry.startUpload("app");
    await upload.append(chunksOf(bytes));
    expect(await rejection(upload.commit(digest))).toEqual(new Error("the disk is full"));
    await clock.advance(hours(3));
    expect(await collected(all, { grace: "2h" })).toMatchObject({ locations: { deleted: 1 } });
    full = false;
    expect(await rejection(upload.commit(digest))).toMatchObject({ code: "BLOB_UPLOAD_UNKNOWN" });
    expect((await registry.resolveBlob("app", digest)).kind).toBe("absent");

    full = true;
    const second = await registry.startUpload("app");
    await second.append(chunksOf(bytes));
    expect(await rejection(second.commit(digest))).toEqual(new Error("the disk is full"));
    full = false;
    await clock.advance(hours(3));
    const running = collectGarbage(storage, { clock, grace: "2h" });
    await turns(100);
    await clock.advance(30_000);
    await second.commit(digest);
    await clock.advance(minute);
    expect(await running).toMatchObject({ locations: { deleted: 0 } });
    expect((await bytesOf(await registry.getBlob("app", digest))).equals(bytes)).toBe(true);

    full = true;
    const third = await registry.startUpload("app");
    const more = randomBytes(50_000);
    await third.append(chunksOf(more));
    expect(await rejection(third.commit(digestOf(more)))).toEqual(new Error("the disk is full"));
    full = false;
    await clock.advance(hours(13));
    expect(await rejection(third.commit(digestOf(more)))).toMatchObject({ code: "BLOB_UPLOAD_UNKNOWN" });
  });
});

describe("how it runs", () => {
  test("a dry run changes nothing and says what a run would do", async () => {
    const all = world();
    const { registry, storage, clock, put } = all;
    await pushImage(registry, "app", "1");
    const both = randomBytes(400);
    await put("one", both);
    await put("two", both);
    await put("three");
    await clock.advance(hours(25));
    await registry.resolveBlob("two", digestOf(both));
    const before = await everything(storage);
    const dry = await collected(all, { dryRun: true });
    expect(await everything(storage)).toEqual(before);
    expect(dry).toMatchObject({ dryRun: true, blobReferences: { removed: 2 }, blobs: { removed: 1, bytes: 1000 }, exact: true });
    const real = await collected(all);
    // The bytes of the blob that went are not listed any more.
    const { locations } = dry;
    expect({ ...real, dryRun: true, locations }).toEqual(dry);
  });

  test("progress leads on: ended anywhere and gone on with, it does what one run does", async () => {
    for (let stop = 1; ; stop++) {
      const all = world();
      for (const repository of ["a", "b", "c"]) {
        await pushImage(all.registry, repository, "1", makeImage([10]));
        await all.put(repository);
        await all.registry.startUpload(repository);
      }
      await all.clock.advance(hours(25));
      const ended = new AbortController();
      let told = 0;
      let after = "";
      const progress = (seen: { after: string }) => {
        after = seen.after;
        if (++told === stop) ended.abort(new Error("enough"));
      };
      const outcome = await collected(all, { progress, signal: ended.signal }).catch((error: unknown) => error);
      if (told < stop) {
        expect(stop).toBeGreaterThan(6);
        return;
      }
      expect(outcome).toEqual(new Error("enough"));
      await collected(all, { after });
      expect([await count(all.storage, "link"), await count(all.storage, "blob"), await stored(all.storage)], after).toEqual([6, 6, 6]);
      expect((await all.storage.blobs.listStaged({ limit: 9 })).items).toEqual([]);
    }
  });

  test("a list stops at its limit; a short grace and a malformed place are refused", async () => {
    const all = world();
    for (let blobs = 0; blobs < 5; blobs++) await all.put("app");
    await all.clock.advance(hours(25));
    const { removed, omitted } = await collected(all, { limit: 3 });
    expect([removed.length, omitted]).toEqual([3, 7]);
    expect(await rejection(collectGarbage(all.storage, { grace: "119m" }))).toMatchObject({
      message: expect.stringContaining('at least "2h"'),
    });
    expect(await rejection(collectGarbage(all.storage, { after: "app@x" }))).toMatchObject({ code: "NAME_INVALID" });
  });

  test("while it waits the process does not end", async () => {
    const all = world();
    await all.put("app");
    await all.clock.advance(hours(25));
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
    const before = timers();
    const running = collectGarbage(all.storage, { clock: all.clock });
    await turns(100);
    await all.clock.advance(1000);
    expect(timers()).toBe(before + 1);
    await all.clock.advance(minute);
    await running;
    expect(timers()).toBe(before);
  });
});

test("over a database in this process, others have their turn meanwhile", async () => {
  const storage = fileStorage(temporaryFolder());
  const blobs = Array.from({ length: 5000 }, (_, index) => parseDigest(digestOf(Buffer.from(`${index}`))));
  await storage.metadata.commit(
    [],
    blobs.flatMap((digest): Change[] => [
      { put: recordKey.blob(digest), value: { location: `blobs/sha256/00/${digest.slice(7)}.0123456789abcdef`, size: 1, committedAt: 0 } },
      { put: recordKey.link("release", "app", digest), value: { size: 1, linkedAt: 0 } },
      { put: recordKey.linkByDigest("release", digest, "app"), value: {} },
    ]),
  );
  let over = false;
  let others = 0;
  const running = collectGarbage(storage, { dryRun: true }).finally(() => {
    over = true;
  });
  for (; !over; others++) await turns(1);
  expect(await running).toMatchObject({ blobs: { removed: 5000 } });
  expect(others).toBeGreaterThan(100);
  await Promise.all([storage.metadata.close(), storage.blobs.close()]);
});

const kinds = ["manifest", "tag", "link", "linkByDigest", "blob", "repository", "upload", "lease", "usage"] as const;

async function everything(storage: Storage) {
  const records = await Promise.all(kinds.map((kind) => storage.metadata.page({ kind, under: [], limit: 1000 })));
  return { records, blobs: await storage.blobs.list({ limit: 1000 }), staged: await storage.blobs.listStaged({ limit: 1000 }) };
}
