import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { aggregate, cached, isRegistryError, type Lookup, localRegistry, mediaTypes, type Storage } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { evictFor } from "../../src/core/eviction.js";
import { bytesOf } from "../fixtures/read.js";
import { scheduled } from "../fixtures/scheduled.js";

const blob = randomBytes(70_000);
const digest = digestOf(blob);
const descriptor = { mediaType: mediaTypes.octetStream, digest, size: blob.byteLength };
const manifest = Buffer.from(
  JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config: descriptor, layers: [descriptor] }),
);

/** A blob reference was made, refused because the bytes are gone, or not possible: anything but a failure. */
const unlessUnknown = async <T>(work: Promise<T>): Promise<T | undefined> => {
  try {
    return await work;
  } catch (error) {
    if (isRegistryError(error) && (error.code === "BLOB_UNKNOWN" || error.code === "MANIFEST_BLOB_UNKNOWN")) return undefined;
    throw error;
  }
};

async function build(scheduler: fc.Scheduler) {
  const on = { now: false };
  const memory = memoryStorage();
  const storage: Storage = { blobs: memory.blobs, metadata: scheduled(memory.metadata, scheduler, on) };
  const clock = fakeClock();
  const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
  await origin.putBlob("app", { digest }, chunksOf(blob));
  const hub = cached(origin, { storage, name: "hub", clock });
  const second = cached(origin, { storage, name: "second", clock });
  const release = localRegistry({ storage, name: "release", clock });
  const joined = aggregate({ local: localRegistry({ storage, name: "joined", clock }), connectors: [{ name: "hub", source: hub }], clock });
  await bytesOf(await hub.getBlob("app", digest));
  await clock.advance(120_000);
  return { on, hub, second, release, joined, evict: () => evictFor(storage.blobs, 1) };
}

type World = Awaited<ReturnType<typeof build>>;

/** What runs beside the eviction. Each answers whether it was told yes, and where the blob must be then. */
const uses = {
  push: async ({ release }: World) => {
    await release.putBlob("pushed", { digest }, chunksOf(blob));
    return [release, "pushed"] as const;
  },
  "mount from the cache": async ({ release, hub }: World) => {
    const mounted = await unlessUnknown(release.mountBlob("mounted", digest, { registry: hub, repository: "app" }));
    return mounted && ([release, "mounted"] as const);
  },
  "blob reference to held bytes": async ({ release }: World) => {
    const held = await release.holdsBlob(digest);
    const referred = held && (await unlessUnknown(release.addBlobReference("referring", held).then(() => true)));
    return referred && ([release, "referring"] as const);
  },
  "copy of a blob reference": async ({ release }: World) => {
    await release.putBlob("from", { digest }, chunksOf(blob));
    const copied = await release.mountBlob("copied", digest, { registry: release, repository: "from" });
    return copied && ([release, "copied"] as const);
  },
  "HEAD and manifest": async ({ release }: World) => {
    await release.putBlob("imaged", { digest }, chunksOf(blob));
    const head = await release.resolveBlob("imaged", digest);
    expect(head.kind).toBe("found");
    await release.putManifest("imaged", "1", { bytes: manifest });
    return [release, "imaged"] as const;
  },
  "manifest alone": async ({ release }: World) => {
    const put = await unlessUnknown(release.putManifest("alone", "1", { bytes: manifest }));
    return put && ([release, "alone"] as const);
  },
  "another cache": async ({ second }: World) => {
    expect((await bytesOf(await second.getBlob("app", digest))).equals(blob)).toBe(true);
    return [second, "app"] as const;
  },
  "pull through the cache": async ({ hub }: World) => {
    expect((await bytesOf(await hub.getBlob("app", digest))).equals(blob)).toBe(true);
    return [hub, "app"] as const;
  },
  "pull through an aggregate": async ({ joined }: World) => {
    const lookup: Lookup<unknown> = await joined.resolveBlob("app", digest);
    expect(lookup.kind).toBe("found");
    return [joined, "app"] as const;
  },
};
type Use = keyof typeof uses;

test("whoever comes to need a blob while it is evicted: what was told yes has its bytes", async () => {
  const names = Object.keys(uses) as Use[];
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), fc.subarray(names, { minLength: 1, maxLength: 3 }), async (scheduler, chosen) => {
      const world = await build(scheduler);
      world.on.now = true;
      const running = Promise.all([world.evict(), ...chosen.map((name) => uses[name](world))]);
      let over = false;
      const end = () => {
        over = true;
      };
      running.then(end, end);
      while (!over || scheduler.count() > 0) {
        if (scheduler.count() > 0) await scheduler.waitOne();
        else await new Promise((resolve) => setImmediate(resolve));
      }
      const [, ...outcomes] = await running;
      world.on.now = false;
      for (const outcome of outcomes) {
        if (!outcome) continue;
        const [registry, repository] = outcome;
        expect((await bytesOf(await registry.getBlob(repository, digest))).equals(blob)).toBe(true);
      }
    }),
    { numRuns: 200 },
  );
}, 60_000);
