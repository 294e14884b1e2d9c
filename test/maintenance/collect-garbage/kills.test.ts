import { randomBytes } from "node:crypto";
import { localRegistry, type Storage } from "oci-manifold";
import { chunksOf, digestOf, parseDigest } from "oci-manifold/extend";
import { collectGarbage, scrub } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { recordKey } from "../../../src/core/records.js";
import { makeImage, pushImage } from "../../fixtures/images.js";
import { bytesOf } from "../../fixtures/read.js";
import { killedAfter, turns } from "./world.js";

const day = 24 * 3_600_000;
const kinds = ["manifest", "tag", "link", "linkByDigest", "blob", "repository", "upload", "quarantine", "usage"] as const;

/** Of everything a collection removes something, and something that stays. */
async function littered() {
  const clock = fakeClock();
  const storage = memoryStorage({ clock });
  const release = localRegistry({ storage, name: "release", clock });
  const team = localRegistry({ storage, name: "team", clock, maxBytes: "1MiB" });
  const image = await pushImage(release, "app", "1");
  const old = await pushImage(team, "app", "1");
  await team.deleteManifest("app", old.digest);
  const bytes = randomBytes(100);
  for (const registry of [release, team]) await registry.putBlob("orphans", { digest: digestOf(bytes) }, chunksOf(bytes));
  await release.startUpload("app");
  for (const commit of [true, false, true]) {
    const staged = await storage.blobs.stage(randomBytes(16).toString("hex"));
    await staged.append(chunksOf(bytes));
    if (!commit) continue;
    const location = await staged.commit(digestOf(bytes));
    const value = { size: 100, why: "others", at: clock.now() };
    if ((await storage.metadata.page({ kind: "quarantine", under: [], limit: 1 })).length === 0)
      await storage.metadata.commit([], [{ put: recordKey.quarantine(digestOf(bytes), location), value }]);
  }
  await storage.metadata.commit([], [{ put: recordKey.lease("x", "y"), value: { holder: "", expiresAt: clock.now() } }]);
  await clock.advance(40 * day);
  return { clock, storage, release, team, image };
}

type Littered = Awaited<ReturnType<typeof littered>>;

async function run({ clock }: Littered, storage: Storage): Promise<unknown> {
  let over = false;
  const running = collectGarbage(storage, { clock }).then(
    () => undefined,
    (error: unknown) => error,
  );
  void running.finally(() => {
    over = true;
  });
  while (!over) await clock.advance(61_000);
  return running;
}

/** How much of each kind is left: names that are random differ from world to world. */
async function left({ storage }: Littered) {
  const records = await Promise.all(kinds.map(async (kind) => (await storage.metadata.page({ kind, under: [], limit: 100 })).length));
  const bytes = (await storage.blobs.list({ limit: 100 })).items.map(({ size }) => size).sort();
  return { records, bytes, staged: (await storage.blobs.listStaged({ limit: 100 })).items };
}

test("killed at any operation of a store and made again, a collection leaves what one run leaves", async () => {
  const whole = await littered();
  expect(await run(whole, whole.storage)).toBeUndefined();
  const expected = await left(whole);
  expect(expected.bytes.length).toBe(3);
  for (let operations = 0; ; operations++) {
    const world = await littered();
    const outcome = await run(world, killedAfter(world.storage, operations));
    for (const [digest, bytes] of world.image.blobs)
      expect((await bytesOf(await world.release.getBlob("app", digest))).equals(bytes), `after ${operations}`).toBe(true);
    if (outcome === undefined) {
      expect(operations).toBeGreaterThan(40);
      return;
    }
    expect(outcome).toEqual(new Error("killed"));
    expect(await run(world, world.storage)).toBeUndefined();
    expect(await left(world), `killed after ${operations} operations`).toEqual(expected);
    expect(await world.team.usage()).toEqual(await world.team.usage({ recount: true }));
  }
}, 60_000);

test("two collections at the same time do what one does", async () => {
  const whole = await littered();
  await run(whole, whole.storage);
  const world = await littered();
  expect(await Promise.all([run(world, world.storage), run(world, world.storage)])).toEqual([undefined, undefined]);
  expect(await left(world)).toEqual(await left(whole));
});

describe("bytes whose record was lost, or whose time in quarantine is over, and that a manifest names", () => {
  /** One layer without a record, one in quarantine, and one whose record leads to where nothing is. */
  const lossy = async () => {
    const world = await littered();
    const { storage, release, clock } = world;
    const image = await pushImage(release, "lossy", "1", makeImage([100, 200, 300]));
    const [unrecorded, quarantined, misled] = image.layers.map(({ digest }) => parseDigest(digest));
    if (!unrecorded || !quarantined || !misled) throw new Error("the image has too few layers");
    const locationOf = async (digest: typeof unrecorded) => (await storage.metadata.get(recordKey.blob(digest)))?.value ?? { location: "" };
    const nowhere = { ...(await storage.metadata.get(recordKey.blob(misled)))?.value, location: "nowhere", size: 300, committedAt: 0 };
    const { location } = await locationOf(quarantined);
    await storage.metadata.commit(
      [],
      [
        { remove: recordKey.blob(unrecorded) },
        { remove: recordKey.blob(quarantined) },
        { put: recordKey.quarantine(quarantined, location), value: { size: 200, why: "cut short", at: clock.now() } },
        { put: recordKey.blob(misled), value: nowhere },
      ],
    );
    await clock.advance(40 * day);
    return { ...world, image };
  };
  const expectWhole = async ({ storage, release, image }: Awaited<ReturnType<typeof lossy>>, when: string) => {
    await scrub(storage, { rate: "1TiB" });
    for (const [digest, bytes] of image.blobs)
      expect((await bytesOf(await release.getBlob("lossy", digest))).equals(Buffer.from(bytes)), when).toBe(true);
  };

  test("survive a collection that is killed at any operation of a store, and the next one", async () => {
    for (let operations = 0; ; operations++) {
      const world = await lossy();
      const outcome = await run(world, killedAfter(world.storage, operations));
      if (operations % 2 === 0) expect(await run(world, world.storage)).toBeUndefined();
      // A mark that was left on a location forbids for a day to record it.
      await world.clock.advance(2 * day);
      expect(await run(world, world.storage)).toBeUndefined();
      await expectWhole(world, `killed after ${operations} operations`);
      if (outcome === undefined) {
        expect(operations).toBeGreaterThan(60);
        return;
      }
    }
  }, 60_000);

  test("survive two collections and a scrub at the same time", async () => {
    for (let lead = 0; lead < 60; lead += 3) {
      const world = await lossy();
      const scrubbed = turns(lead).then(() => scrub(world.storage, { rate: "1TiB" }));
      expect(await Promise.all([run(world, world.storage), run(world, world.storage)])).toEqual([undefined, undefined]);
      await scrubbed;
      await world.clock.advance(2 * day);
      expect(await run(world, world.storage)).toBeUndefined();
      await expectWhole(world, `a scrub ${lead} turns later`);
    }
  }, 60_000);
});
