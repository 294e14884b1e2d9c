import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, localRegistry, RegistryError } from "oci-manifold";
import { type BlobStore, chunksOf, digestOf, type MetadataStore, parseDigest, type Staged, type StagedState } from "oci-manifold/extend";
import { collectGarbage } from "oci-manifold/maintenance";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryBlobStore, memoryMetadataStore } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { bytesOf } from "../fixtures/read.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { FakeS3 } from "../storage/fake-s3.js";
import { storeOf } from "../storage/s3-support.js";

const bytes = randomBytes(100_000);
const digest = digestOf(bytes);
const hour = 3_600_000;
const down = () => new RegistryError("UNAVAILABLE", "the database is not there");

/** As an object store does it: the location of an upload is fixed when its parts begin, so whoever commits it, and however often, gets the same. */
function oneLocationEach(inner: BlobStore): BlobStore {
  const locations = new Map<string, Promise<string>>();
  const wrapped = (id: string, staged: Staged, known?: StagedState): Staged => ({
    get size() {
      return Number(known?.size ?? staged.size);
    },
    get state() {
      return known ?? staged.state;
    },
    append: (source, o) => staged.append(source, o),
    commit(expected) {
      const location = locations.get(id) ?? staged.commit(expected);
      locations.set(id, location);
      return location;
    },
    abort: () => staged.abort(),
  });
  return {
    ...inner,
    stage: async (id) => wrapped(id, await inner.stage(id)),
    // Another node may have opened it before it was committed.
    reopen: async (id, state) => wrapped(id, await (locations.has(id) ? inner.stage(id) : inner.reopen(id, state)), state),
  };
}

/** `before` is called with what is to be read, and its throw is the read's. */
function watched(inner: MetadataStore, before: (kind: string) => Promise<void>): MetadataStore {
  return {
    ...inner,
    async get(key) {
      await before(key.kind);
      return inner.get(key);
    },
  };
}

const stores = [
  ["one of locations by upload", (clock: Clock) => oneLocationEach(memoryBlobStore({ clock }))],
  ["S3", () => storeOf(new FakeS3())],
] as const;

test.each(stores)(
  "a commit that could not make sure of its right records no location whose bytes it has given up: %s",
  async (_, store) => {
    const clock = fakeClock();
    const blobs = store(clock);
    let broken = 0;
    const metadata = watched(memoryMetadataStore(), async (kind) => {
      const committed = (await blobs.list({ limit: 1 })).items.length > 0;
      if (committed && kind === "upload" && broken++ === 0) throw down();
    });
    const registry = localRegistry({ storage: { blobs, metadata }, name: "release", clock });
    const upload = await registry.startUpload("app");
    await upload.append(chunksOf(bytes));
    await expect(upload.commit(digest)).rejects.toMatchObject({ code: "UNAVAILABLE" });
    const again = await registry.resumeUpload("app", upload.id);
    await expect(again.commit(digest)).rejects.toMatchObject({ code: "BLOB_UPLOAD_UNKNOWN" });
    expect((await registry.getBlob("app", digest)).kind).toBe("absent");
  },
);

test.each(["before it looks", "after it has given them up"])(
  "who lost the right to another node, which records the same bytes %s, takes none of what that one has acknowledged",
  async (when) => {
    const [clock, ahead] = [fakeClock(), fakeClock(Date.UTC(2026, 0, 1, 0, 1))];
    const blobs = oneLocationEach(memoryBlobStore({ clock }));
    const metadata = memoryMetadataStore();
    let over = () => {};
    const ended = new Promise<void>((resolve) => {
      over = resolve;
    });
    const recording = { began: () => {} };
    const late: MetadataStore = {
      ...metadata,
      async commit(conditions, changes) {
        const records = changes.some((change) => "put" in change && change.put.kind === "blob");
        if (records) recording.began();
        if (records && when === "after it has given them up") await ended;
        return metadata.commit(conditions, changes);
      },
    };
    const two = localRegistry({ storage: { blobs, metadata: late }, name: "release", clock: ahead });
    let theirs: Promise<unknown> | undefined;
    // The other node, by whose clock the right is over, comes between this one's look at the blob's record and that at its right.
    const slow = watched(metadata, async (kind) => {
      if (theirs || kind !== "upload" || (await blobs.list({ limit: 1 })).items.length === 0) return;
      const began = new Promise<void>((resolve) => {
        recording.began = resolve;
      });
      const commit = async () => (await two.resumeUpload("app", upload.id)).commit(digest);
      theirs = commit().catch((error: unknown) => error);
      await (when === "before it looks" ? theirs : began);
    });
    const one = localRegistry({ storage: { blobs, metadata: slow }, name: "release", clock });
    const upload = await one.startUpload("app");
    await upload.append(chunksOf(bytes));
    await expect(upload.commit(digest)).rejects.toMatchObject({ code: expect.stringMatching(/^(UNAVAILABLE|BLOB_UPLOAD_UNKNOWN)$/) });
    over();
    if (when === "before it looks") {
      expect(await theirs).toMatchObject({ digest });
      expect((await bytesOf(await two.getBlob("app", digest))).equals(bytes)).toBe(true);
    } else {
      expect(await theirs).toMatchObject({ code: "BLOB_UPLOAD_UNKNOWN" });
      expect((await two.getBlob("app", digest)).kind).toBe("absent");
    }
  },
);

test("what waited too long stays too late, also when its location was collected and that is forgotten", async () => {
  const clock = fakeClock();
  const blobs = oneLocationEach(memoryBlobStore({ clock }));
  const inner = memoryMetadataStore();
  let full = false;
  const metadata: MetadataStore = {
    ...inner,
    commit: (conditions, changes) => {
      const records = changes.some((change) => "put" in change && change.put.kind === "blob");
      return full && records ? Promise.reject(new RegistryError("INSUFFICIENT_STORAGE", "full")) : inner.commit(conditions, changes);
    },
  };
  const registry = localRegistry({ storage: { blobs, metadata }, name: "release", clock, uploadTimeToLive: "7d" });
  const upload = await registry.startUpload("app");
  await upload.append(chunksOf(bytes));
  full = true;
  await expect(upload.commit(digest)).rejects.toMatchObject({ code: "INSUFFICIENT_STORAGE" });
  full = false;
  for (let day = 0; day < 3; day++) {
    await clock.advance(25 * hour);
    let over = false;
    const collecting = collectGarbage({ blobs, metadata }, { clock, grace: "2h" }).finally(() => {
      over = true;
    });
    // It gives others their turn now and then, so one step may end before it waits.
    while (!over) await clock.advance(61_000);
    await collecting;
    const outcome = await (await registry.resumeUpload("app", upload.id)).commit(digest).catch((error: unknown) => error);
    expect(outcome).toMatchObject({ code: "BLOB_UPLOAD_UNKNOWN" });
  }
  expect((await registry.getBlob("app", digest)).kind).toBe("absent");
});

test("foreign bytes whose record may come back after a crash stay", async () => {
  const path = join(temporaryFolder(), "other");
  await writeFile(path, bytes);
  const blobs = fileBlobStore(temporaryFolder());
  const inner = memoryMetadataStore();
  let decide = async () => {};
  // The server decides after the line broke.
  const metadata: MetadataStore = {
    ...inner,
    async commit(conditions, changes) {
      decide = async () => void (await inner.commit(conditions, changes));
      throw down();
    },
  };
  const registry = localRegistry({ storage: { blobs, metadata }, name: "release" });
  const expected = { digest, size: bytes.byteLength };
  await expect(registry.takeBlob("app", expected, { kind: "file", path })).rejects.toMatchObject({ code: "UNAVAILABLE" });
  await decide();
  expect(await inner.get(recordKey.blob(parseDigest(digest)))).toBeDefined();
  const after = localRegistry({ storage: { blobs, metadata: inner }, name: "release" });
  expect((await bytesOf(await after.getBlob("app", digest))).equals(bytes)).toBe(true);
});

test("an upload whose record may come back after a crash leaves its bytes to the collection, also when the right is lost later", async () => {
  const clock = fakeClock();
  const blobs = oneLocationEach(memoryBlobStore({ clock }));
  const inner = memoryMetadataStore();
  let decide: (() => Promise<unknown>) | undefined;
  const metadata: MetadataStore = {
    ...inner,
    async commit(conditions, changes) {
      if (decide || !changes.some((change) => "put" in change && change.put.kind === "blob")) return inner.commit(conditions, changes);
      decide = () => inner.commit([], changes);
      throw down();
    },
  };
  const registry = localRegistry({ storage: { blobs, metadata }, name: "release", clock });
  const upload = await registry.startUpload("app");
  await upload.append(chunksOf(bytes));
  await expect(upload.commit(digest)).rejects.toMatchObject({ code: "UNAVAILABLE" });
  const session = await registry.resumeUpload("app", upload.id);
  const key = recordKey.upload("release", upload.id);
  const { get } = inner;
  let reads = 0;
  // Another node takes the right in the middle of the second try.
  metadata.get = async (wanted) => {
    if (wanted.kind === "upload" && ++reads === 4) {
      const now = await get(key);
      if (now) await inner.commit([], [{ put: key, value: { ...now.value, writer: { token: "other", expiresAt: clock.now() + 15_000 } } }]);
    }
    return get(wanted);
  };
  await expect(session.commit(digest)).rejects.toMatchObject({ code: "UNAVAILABLE" });
  await decide?.();
  expect((await bytesOf(await registry.getBlob("app", digest))).equals(bytes)).toBe(true);
});
