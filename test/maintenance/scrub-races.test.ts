import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import fc from "fast-check";
import { aggregate, cached, isRegistryError, localRegistry, type Storage } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { scrub } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { evictFor } from "../../src/core/eviction.js";
import { bytesOf } from "../fixtures/read.js";
import { scheduled } from "../fixtures/scheduled.js";
import { answering, isRecorded, locationIn } from "./scrub-support.js";
import { put } from "./support.js";

const blob = randomBytes(1000);
const digest = digestOf(blob);
const descriptor = { mediaType: "application/octet-stream", digest, size: blob.byteLength };
const manifest = Buffer.from(
  JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: descriptor, layers: [descriptor] }),
);

/** A cache, two registries that refer to the blob, and its bytes gone bad. */
async function build(scheduler: fc.Scheduler) {
  const on = { now: false };
  const memory = memoryStorage();
  const storage: Storage = { blobs: memory.blobs, metadata: scheduled(memory.metadata, scheduler, on) };
  const clock = fakeClock();
  const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
  await origin.putBlob("app", { digest }, chunksOf(blob));
  const hub = cached(origin, { storage, name: "hub", clock });
  const release = localRegistry({ storage, name: "release", clock });
  const local = localRegistry({ storage, name: "joined", clock });
  const joined = aggregate({ local, connectors: [{ name: "origin", source: origin }], clock });
  await bytesOf(await hub.getBlob("app", digest));
  for (const registry of [release, local]) await registry.putBlob("app", { digest }, chunksOf(blob));
  const bad = await locationIn(storage, digest);
  answering(storage.blobs, (location) => (location === bad ? Readable.from([Buffer.alloc(1000, "x")], { objectMode: false }) : undefined));
  await clock.advance(120_000);
  return { on, storage, hub, release, joined, bad };
}

type World = Awaited<ReturnType<typeof build>>;

const beside = {
  push: ({ release }: World) => release.putBlob("pushed", { digest }, chunksOf(blob)),
  upload: async ({ release }: World) => {
    const session = await release.startUpload("uploaded");
    await session.append(chunksOf(blob));
    await session.commit(digest);
  },
  mount: ({ release }: World) => release.mountBlob("mounted", digest, { registry: release, repository: "app" }),
  "mount from the cache": ({ release, hub }: World) => release.mountBlob("mounted", digest, { registry: hub, repository: "app" }),
  manifest: ({ release }: World) => put(release, "app", "1", manifest),
  "pull through the cache": ({ hub }: World) => hub.getBlob("app", digest).then(bytesOf),
  "pull through an aggregate": ({ joined }: World) => joined.getBlob("app", digest).then(bytesOf),
  restore: ({ release }: World) => release.restoreBlob(descriptor, chunksOf(blob)),
  eviction: ({ storage }: World) => evictFor(storage.blobs, 1),
  deletion: ({ release }: World) => release.deleteBlob("app", digest),
  "another scrub": ({ storage }: World) => scrub(storage),
  "a scrub that heals": ({ storage, joined }: World) => scrub(storage, { heal: [joined] }),
};
type Beside = keyof typeof beside;

test("whatever happens beside a scrub: what was bad is out of use afterwards, and nobody is given anything else than the blob", async () => {
  const names = Object.keys(beside) as Beside[];
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), fc.subarray(names, { minLength: 1, maxLength: 3 }), async (scheduler, chosen) => {
      const world = await build(scheduler);
      world.on.now = true;
      const contained = (work: Promise<unknown>) =>
        work.catch((error) => {
          if (!isRegistryError(error)) throw error;
        });
      const running = Promise.all([scrub(world.storage), ...chosen.map((name) => contained(beside[name](world)))]);
      let over = false;
      const end = () => {
        over = true;
      };
      running.then(end, end);
      while (!over || scheduler.count() > 0) {
        if (scheduler.count() > 0) await scheduler.waitOne();
        else await new Promise((resolve) => setImmediate(resolve));
      }
      await running;
      world.on.now = false;
      const { storage, release, hub, joined, bad } = world;
      if (await isRecorded(storage, digest)) expect(await locationIn(storage, digest)).not.toBe(bad);
      for (const repository of ["app", "pushed", "uploaded", "mounted"]) {
        const lookup = await release.getBlob(repository, digest);
        if (lookup.kind !== "absent") expect((await bytesOf(lookup)).equals(blob)).toBe(true);
      }
      for (const registry of [hub, joined]) expect((await bytesOf(await registry.getBlob("app", digest))).equals(blob)).toBe(true);
      // And one push restores it for all that refer to it.
      await release.putBlob("again", { digest }, chunksOf(blob));
      for (const { kind } of await Promise.all(
        ["again", ...(chosen.includes("deletion") ? [] : ["app"])].map((name) => release.resolveBlob(name, digest)),
      ))
        expect(kind).toBe("found");
      expect(await scrub(storage)).toMatchObject({ checked: 1, corrupt: [], missing: [], unreadable: [] });
    }),
    { numRuns: 60 },
  );
}, 60_000);
