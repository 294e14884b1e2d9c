import { randomBytes } from "node:crypto";
import { localRegistry } from "oci-manifold";
import { chunksOf, digestOf, type MetadataStore, parseDigest } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { CacheEviction } from "../../src/cache/eviction.js";
import { noEvents } from "../../src/core/events.js";
import { recordKey } from "../../src/core/records.js";

test("a blob reference that another node makes while a cache gives the blob up for another cache leads to the source as well", async () => {
  const clock = fakeClock();
  const storage = memoryStorage({ clock });
  const bytes = randomBytes(1000);
  const digest = parseDigest(digestOf(bytes));
  const descriptor = { mediaType: "application/octet-stream", digest, size: bytes.byteLength };
  const partition = (name: string, metadata: MetadataStore) => ({
    name,
    blobs: storage.blobs,
    metadata,
    clock,
    events: noEvents,
    served: { member: [name] },
  });
  const evictionOf = (name: string, maxBytes: number, metadata: MetadataStore = storage.metadata) =>
    new CacheEviction({ partition: partition(name, metadata), maxBytes, keepFree: 0 });
  const [hub, quay] = [localRegistry({ storage, name: "hub", clock }), localRegistry({ storage, name: "quay", clock })];
  await hub.putBlob("first", { digest }, chunksOf(bytes));
  await quay.putBlob("first", { digest }, chunksOf(bytes));
  for (const name of ["hub", "quay"]) await evictionOf(name, 1_000_000).share(digest, bytes.byteLength);
  await clock.advance(120_000);
  let met = false;
  const watched: MetadataStore = {
    ...storage.metadata,
    async names(range) {
      const names = await storage.metadata.names(range);
      if (met || range.kind !== "linkByDigest" || range.under[1] !== "hub") return names;
      met = true;
      await hub.addBlobReference("second", descriptor);
      await evictionOf("hub", 1_000_000).share(digest, bytes.byteLength);
      return names;
    },
  };
  await evictionOf("hub", 1, watched).trim();
  expect(met).toBe(true);
  expect((await hub.resolveBlob("first", digest)).kind).toBe("linked");
  expect(await storage.metadata.get(recordKey.cachedBlob("hub", digest))).toBeUndefined();
  expect((await hub.resolveBlob("second", digest)).kind).toBe("linked");
  // So that the other cache can evict it in its turn.
  await evictionOf("quay", 1).trim();
  expect((await storage.blobs.list({ limit: 1 })).items).toEqual([]);
});

test("bytes that another process has just given to a registry are not evicted, though the names of its repositories lag behind", async () => {
  const clock = fakeClock();
  const storage = memoryStorage({ clock });
  const bytes = randomBytes(1000);
  const digest = parseDigest(digestOf(bytes));
  const known = new Map<string, Promise<readonly string[]>>();
  // As files do for 20 ms.
  const lagging: MetadataStore = {
    ...storage.metadata,
    names(range) {
      const text = JSON.stringify([range.kind, range.under, range.after]);
      const names = known.get(text) ?? storage.metadata.names(range);
      known.set(text, names);
      return names;
    },
  };
  const [hub, release] = [localRegistry({ storage, name: "hub", clock }), localRegistry({ storage, name: "release", clock })];
  await hub.putBlob("library/app", { digest }, chunksOf(bytes));
  const here = { blobs: storage.blobs, metadata: lagging };
  const partition = { name: "hub", ...here, clock, events: noEvents, served: { member: ["hub"] } };
  const eviction = new CacheEviction({ partition, maxBytes: 1, keepFree: 0 });
  await storage.metadata.commit([], [eviction.entry(digest, bytes.byteLength)]);
  await clock.advance(120_000);
  // A client asked this process for a mount from anywhere, then came by way of another.
  const limit = 1001;
  await lagging.names({ kind: "linkByDigest", under: [digest, "release"], limit });
  expect(await release.mountBlob("app", digest, { registry: hub, repository: "library/app" })).toMatchObject({ digest });
  await eviction.trim();
  expect((await release.getBlob("app", digest)).kind).toBe("found");
});
