import { randomBytes } from "node:crypto";
import { cpSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { aggregate, localRegistry } from "oci-manifold";
import { digestOf, type StoringRegistry } from "oci-manifold/extend";
import { collectGarbage, repair, scrub } from "oci-manifold/maintenance";
import { fileStorage } from "oci-manifold/storage/files";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { type Image, makeImage, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { recorder } from "../http/support.js";
import { locationIn } from "./scrub-support.js";

const rate = "1TiB";
const day = 24 * 3_600_000;

/** Twelve images in files, whose blobs can be taken away and put back as by a backup. */
async function stored() {
  const folder = join(temporaryFolder(), "data");
  const clock = fakeClock(Date.now());
  const storage = fileStorage(folder, { clock });
  const registry = localRegistry({ storage, name: "release", clock });
  onTestFinished(async () => {
    await registry.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const images: Image[] = [];
  for (let i = 0; i < 12; i++) images.push(await pushImage(registry, "app", `${i}`, makeImage([500])));
  const digests = images.flatMap(({ blobs }) => [...blobs.keys()]);
  const away = join(dirname(folder), "away");
  const locations = new Map<string, string>();
  return {
    folder,
    clock,
    storage,
    registry,
    images,
    digests,
    async takeAway(some: readonly string[]) {
      for (const digest of some) {
        const location = await locationIn(storage, digest);
        locations.set(digest, location);
        mkdirSync(dirname(join(away, location)), { recursive: true });
        renameSync(join(folder, location), join(away, location));
      }
    },
    putBack(some: readonly string[]) {
      for (const digest of some) {
        const location = locations.get(digest) ?? "";
        cpSync(join(away, location), join(folder, location));
      }
    },
  };
}

async function expectWhole(registry: StoringRegistry, images: readonly Image[]) {
  for (const { blobs } of images)
    for (const [digest, bytes] of blobs)
      expect((await bytesOf(await registry.getBlob("app", digest))).equals(Buffer.from(bytes))).toBe(true);
}

async function collected(clock: ReturnType<typeof fakeClock>, ...[storage, options]: Parameters<typeof collectGarbage>) {
  let over = false;
  const running = collectGarbage(storage, { clock, ...options }).finally(() => {
    over = true;
  });
  while (!over) await clock.advance(61_000);
  return running;
}

describe("a scrub while a backup is copied back", () => {
  test.each([0, 0.5, 0.9])("ends before it changes anything, with %d of the blobs there", async (share) => {
    const { storage, registry, images, digests, takeAway, putBack, clock } = await stored();
    const missing = digests.slice(Math.round(digests.length * share));
    if (share === 0.9) await takeAway(digests.slice(0, 10));
    else await takeAway(missing);
    const before = await storage.metadata.page({ kind: "blob", under: [], limit: 100 });
    const gone = share === 0.9 ? 10 : missing.length;
    await expect(scrub(storage, { rate, clock })).rejects.toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringMatching(new RegExp(`^${gone} of 24 blobs are missing.*nothing was changed.*maxMissing: 1`, "s")),
    });
    expect(await storage.metadata.page({ kind: "blob", under: [], limit: 100 })).toEqual(before);
    expect(await storage.metadata.page({ kind: "quarantine", under: [], limit: 100 })).toEqual([]);
    putBack(share === 0.9 ? digests.slice(0, 10) : missing);
    expect(await scrub(storage, { rate, clock })).toMatchObject({ checked: 24, missing: [], corrupt: [], lost: [] });
    await expectWhole(registry, images);
  });

  test("a dry run lists what is missing, and a scrub that is told to may take all of it out of use", async () => {
    const { storage, digests, takeAway, clock } = await stored();
    await takeAway(digests.slice(0, 12));
    expect((await scrub(storage, { rate, clock, dryRun: true })).missing).toHaveLength(12);
    expect((await scrub(storage, { rate, clock, maxMissing: 1 })).missing).toHaveLength(12);
    expect(await storage.metadata.page({ kind: "blob", under: [], limit: 100 })).toHaveLength(12);
  });

  test("few that are missing are taken out of use in a small store, too", async () => {
    const { storage, digests, takeAway, clock } = await stored();
    await takeAway(digests.slice(0, 9));
    expect((await scrub(storage, { rate, clock })).missing).toHaveLength(9);
  });

  test.each([-0.1, 1.1, Number.NaN])("a part of %d is refused", async (maxMissing) => {
    const { storage } = await stored();
    await expect(scrub(storage, { maxMissing })).rejects.toThrow(/maxMissing must be a number from 0 to 1/);
  });
});

describe("bytes that come back to where they were recorded", () => {
  test("are taken into use by the next scrub", async () => {
    const { storage, registry, images, takeAway, putBack, clock, ...rest } = await stored();
    // The first in the records' order: a scrub looks there, and at some other blobs, before it believes that a store is the right one.
    const digests = rest.digests.toSorted();
    await takeAway(digests);
    await scrub(storage, { rate, clock, maxMissing: 1 });
    // All are gone, so none was taken for lost; with one of them there the others are.
    putBack(digests.slice(0, 1));
    expect((await scrub(storage, { rate, clock, maxMissing: 1 })).missing).toHaveLength(23);
    putBack(digests.slice(1, 12));
    expect(await scrub(storage, { rate, clock })).toMatchObject({ readopted: 11, missing: [], corrupt: [] });
    putBack(digests.slice(12));
    expect(await scrub(storage, { rate, clock })).toMatchObject({ readopted: 12, missing: [], corrupt: [], lost: [] });
    expect(await storage.metadata.page({ kind: "quarantine", under: [], limit: 100 })).toEqual([]);
    await expectWhole(registry, images);
  });

  test("are taken into use by a repair", async () => {
    const { storage, registry, images, digests, takeAway, putBack, clock } = await stored();
    await takeAway(digests.slice(0, 5));
    await scrub(storage, { rate, clock });
    putBack(digests.slice(0, 5));
    const all = aggregate({ local: registry, connectors: [] });
    expect(await repair(all)).toMatchObject({ repaired: 5, bytes: 0, lost: [] });
    await expectWhole(registry, images);
  });

  test("are not taken into use as long as they are others, and neither is what was pushed anew replaced", async () => {
    const { folder, storage, registry, images, digests, takeAway, putBack, clock } = await stored();
    const [cut = "", pushed = ""] = digests;
    const location = await locationIn(storage, cut);
    await takeAway([cut, pushed]);
    await scrub(storage, { rate, clock });
    cpSync(join(folder, await locationIn(storage, digests[5] ?? "")), join(folder, location));
    const bytes = images[0]?.blobs.get(pushed) ?? new Uint8Array();
    await registry.putBlob(
      "app",
      { digest: pushed },
      (async function* () {
        yield bytes;
      })(),
    );
    const anew = await locationIn(storage, pushed);
    putBack([pushed]);
    expect(await scrub(storage, { rate, clock })).toMatchObject({ readopted: 0, missing: [], corrupt: [] });
    expect(await locationIn(storage, pushed)).toBe(anew);
    expect((await registry.getBlob("app", cut)).kind).toBe("absent");
    putBack([cut]);
    expect(await scrub(storage, { rate, clock })).toMatchObject({ readopted: 1 });
    await expectWhole(registry, images);
  });
});

describe("garbage collection", () => {
  test("spares what a scrub found missing and a backup has restored, for as long as a manifest names it", async () => {
    const { storage, registry, images, digests, takeAway, putBack, clock } = await stored();
    await takeAway(digests.slice(0, 9));
    await scrub(storage, { rate, clock });
    putBack(digests.slice(0, 9));
    await clock.advance(3 * day);
    expect(await collected(clock, storage)).toMatchObject({ locations: { deleted: 0 }, quarantined: { removed: 0 } });
    // Longer than quarantine lasts.
    await clock.advance(40 * day);
    expect(await collected(clock, storage)).toMatchObject({ locations: { deleted: 0 }, quarantined: { removed: 0 } });
    await expectWhole(registry, images);
  });

  test("spares bytes that no record names and a manifest does, and the next scrub takes them into use", async () => {
    const { storage, registry, images, digests, clock } = await stored();
    const lost = digests.slice(0, 6);
    // As a scrub of an earlier version left it: the record is gone, and with it the location.
    await storage.metadata.commit(
      [],
      lost.map((digest) => ({ remove: recordKey.blob(digest as never) })),
    );
    const orphan = randomBytes(500);
    const staged = await storage.blobs.stage(randomBytes(16).toString("hex"));
    await staged.append(
      (async function* () {
        yield orphan;
      })(),
    );
    const location = await staged.commit(digestOf(orphan));
    await clock.advance(3 * day);
    const told = recorder();
    expect(await collected(clock, storage, { events: told, dryRun: true })).toMatchObject({ locations: { deleted: 1 } });
    expect(await collected(clock, storage, { events: told })).toMatchObject({ locations: { deleted: 1 } });
    expect((await storage.blobs.list({ limit: 100 })).items.map((item) => item.location)).not.toContain(location);
    for (const digest of lost) expect(told.of("fault").map(({ message }) => message)).toContainEqual(expect.stringContaining(digest));
    expect(await scrub(storage, { rate, clock })).toMatchObject({ readopted: 6 });
    await expectWhole(registry, images);
  });

  test("spares a blob that no repository refers to and a manifest of a sparse registry names", async () => {
    const { storage, registry, digests, images, clock } = await stored();
    const sparse = localRegistry({ storage, name: "sparse", sparse: true, clock });
    const [first] = images;
    if (!first) throw new Error("no image");
    await sparse.putManifest("mirror", "1", { bytes: first.manifest });
    await registry.deleteManifest("app", first.digest);
    await clock.advance(3 * day);
    await collected(clock, storage);
    const left = (await storage.metadata.page({ kind: "blob", under: [], limit: 100 })).map(({ key }) => key.parts[0]);
    expect([...left].sort()).toEqual([...digests].sort());
    await sparse.deleteManifest("mirror", first.digest);
    await clock.advance(3 * day);
    expect(await collected(clock, storage)).toMatchObject({ blobs: { removed: first.blobs.size } });
  });
});
