import { randomBytes } from "node:crypto";
import { existsSync, renameSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Storage } from "oci-manifold";
import { digestOf, parseDigest } from "oci-manifold/extend";
import { type CollectGarbageOptions, type CollectGarbageReport, collectGarbage, type ScrubOptions, scrub } from "oci-manifold/maintenance";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { type Image, makeImage } from "../fixtures/images.js";
import { withoutClock } from "../fixtures/without-clock.js";
import { locationIn } from "../maintenance/scrub-support.js";
import { type StackOptions, stack } from "./stack.js";

const day = 24 * 3_600_000;

/** The stack with hands on its folder, as an operator has who restores it. */
async function operated(options: StackOptions = {}) {
  const held: Storage[] = [];
  const served = await stack({
    ...options,
    storage: (files) => {
      // Collections run days from now; the folder's own clock would not agree.
      const storage = withoutClock(options.storage?.(files) ?? files);
      held.push(storage);
      return storage;
    },
  });
  const [storage] = held;
  if (!storage) throw new Error("the stack has no storage");
  const pathOf = async (digest: string) => join(served.folder, await locationIn(storage, digest));
  return {
    ...served,
    storage,
    pathOf,
    scrubbed: (o: ScrubOptions = {}) => scrub(storage, { rate: "1TiB", ...o }),
    /** A collection so many days from now. */
    async collected(days: number, o: CollectGarbageOptions = {}): Promise<CollectGarbageReport> {
      const clock = fakeClock(Date.now() + days * day);
      let over = false;
      const running = collectGarbage(storage, { clock, ...o }).finally(() => {
        over = true;
      });
      running.catch(() => {});
      while (!over) await clock.advance(61_000);
      return running;
    },
    /** Takes a file away; the answer puts it back. */
    async away(digest: string): Promise<() => Promise<void>> {
      const path = await pathOf(digest);
      const aside = `${served.folder}.${randomBytes(4).toString("hex")}`;
      await rename(path, aside);
      return async () => {
        await mkdir(dirname(path), { recursive: true });
        await rename(aside, path);
      };
    },
    async expectPulled(repository: string, { blobs, digest }: Image, status = 200) {
      expect((await served.ask("GET", `/v2/${repository}/manifests/${digest}`)).status).toBe(200);
      for (const [blob, bytes] of blobs) {
        const pulled = await served.ask("GET", `/v2/${repository}/blobs/${blob}`);
        expect([pulled.status, status !== 200 || pulled.body.equals(Buffer.from(bytes))]).toEqual([status, true]);
      }
    },
  };
}

const [first, second] = [(image: Image) => image.layers[0]?.digest ?? "", (image: Image) => image.layers[1]?.digest ?? ""];

describe("records of a backup beside bytes of today", () => {
  /** The bytes were put at a new location after the backup, so the restored record leads to where nothing is. */
  const outdated = async () => {
    const world = await operated();
    const image = await world.pushImage("release/app", "1");
    const digest = first(image);
    const key = recordKey.blob(parseDigest(digest));
    const backup = await world.storage.metadata.get(key);
    if (!backup) throw new Error("there is no record");
    const [old, renewed] = [await world.pathOf(digest), `${backup.value.location.slice(0, -16)}${"0".repeat(16)}`];
    await rename(old, join(world.folder, renewed));
    return { ...world, image, digest, old, renewed: join(world.folder, renewed) };
  };

  test("a collection leaves the only bytes of what a manifest names, though another location is recorded, and a scrub takes them into use", async () => {
    const { collected, scrubbed, expectPulled, image, renewed } = await outdated();
    await collected(3);
    expect(existsSync(renewed)).toBe(true);
    expect(await scrubbed()).toMatchObject({ missing: { length: 1 }, readopted: 1, lost: [] });
    await expectPulled("release/app", image);
  });

  test("nor does it believe a recorded location whose bytes are others", async () => {
    const { collected, scrubbed, expectPulled, image, old, renewed, digest } = await outdated();
    await writeFile(old, Buffer.alloc(image.blobs.get(digest)?.byteLength ?? 0, "x"));
    await collected(3);
    expect(existsSync(renewed)).toBe(true);
    expect(await scrubbed()).toMatchObject({ corrupt: { length: 1 }, readopted: 1 });
    await expectPulled("release/app", image);
  });

  test("bytes of which the recorded location has whole ones go", async () => {
    const { collected, expectPulled, image, old, renewed } = await outdated();
    await writeFile(old, await readFile(renewed));
    expect(await collected(3)).toMatchObject({ locations: { deleted: 1 } });
    expect(existsSync(renewed)).toBe(false);
    await expectPulled("release/app", image);
  });

  test("bytes in quarantine stay when its time is over, as long as what was stored in their place is not there", async () => {
    const { away, scrubbed, collected, expectPulled, pushImage, pathOf } = await operated();
    const image = await pushImage("release/app", "1");
    const [digest, old] = [first(image), await pathOf(first(image))];
    const back = await away(digest);
    await scrubbed();
    await pushImage("release/app", "1", image);
    await back();
    const lost = await pathOf(digest);
    await rm(lost);
    await collected(60);
    expect(existsSync(old)).toBe(true);
    expect(await scrubbed()).toMatchObject({ missing: { length: 1 }, readopted: 1 });
    await expectPulled("release/app", image);
  });
});

describe("what a manifest says of a blob", () => {
  test("decides by the digest, not by the size that it states", async () => {
    const { ask, storage, pathOf, putBlob, collected, scrubbed } = await operated({ local: { sparse: true } });
    const image = makeImage([1000]);
    const layer = image.layers[0];
    const manifest = JSON.parse(Buffer.from(image.manifest).toString());
    manifest.layers[0].size = 7;
    for (const bytes of image.blobs.values()) await putBlob("release/app", bytes);
    const put = await ask("PUT", "/v2/release/app/manifests/1", {
      headers: { "content-type": manifest.mediaType },
      body: JSON.stringify(manifest),
    });
    expect(put.status).toBe(201);
    const path = await pathOf(layer?.digest ?? "");
    await storage.metadata.commit([], [{ remove: recordKey.blob(parseDigest(layer?.digest ?? "")) }]);
    await collected(3);
    expect(existsSync(path)).toBe(true);
    expect(await scrubbed()).toMatchObject({ readopted: 1 });
    expect((await ask("GET", `/v2/release/app/blobs/${layer?.digest}`)).status).toBe(200);
  });
});

test("files that were exchanged by a restore are found again by their digests, also when the quarantine is over", async () => {
  const { pathOf, pushImage, scrubbed, collected, expectPulled } = await operated();
  const image = await pushImage("release/app", "1", makeImage([5000, 5000]));
  const [one, other] = [await pathOf(first(image)), await pathOf(second(image))];
  await rename(one, `${one}.aside`);
  await rename(other, one);
  await rename(`${one}.aside`, other);
  expect(await scrubbed()).toMatchObject({ corrupt: { length: 2 } });
  await collected(60);
  expect(await scrubbed()).toMatchObject({ checked: 3, corrupt: [], missing: [] });
  await expectPulled("release/app", image);
});

test("a small blob whose bytes were put right in their place is not served as it was from memory", async () => {
  const { ask, pathOf, pushImage, scrubbed, expectPulled } = await operated();
  const image = await pushImage("release/app", "1");
  const path = await pathOf(first(image));
  const right = await readFile(path);
  await writeFile(path, Buffer.alloc(right.byteLength, "x"));
  expect((await ask("GET", `/v2/release/app/blobs/${first(image)}`)).body.equals(right)).toBe(false);
  await scrubbed();
  await writeFile(path, right);
  expect(await scrubbed()).toMatchObject({ readopted: 1 });
  await expectPulled("release/app", image);
});

describe("a cache whose upstream is gone", () => {
  const onlyCopy = async () => {
    const world = await operated();
    const added = world.upstream.addImage("library/app", "1");
    const manifest = await world.ask("GET", "/v2/hub/library/app/manifests/1");
    const { config, layers } = JSON.parse(manifest.body.toString());
    const digests: string[] = [config, ...layers].map(({ digest }) => digest);
    const pull = async () => {
      const answers = [];
      for (const digest of digests) answers.push(await world.ask("GET", `/v2/hub/library/app/blobs/${digest}`));
      return answers.map(({ status, body }, index) => status === 200 && digestOf(body) === digests[index]);
    };
    expect(new Set(await pull())).toEqual(new Set([true]));
    return { ...world, added, pull, digest: digests.at(-1) ?? "", all: digests };
  };

  test.each(["missing", "cut short"])("serves bytes that were %s once they are back, also after a collection", async (how) => {
    const { upstream, away, pathOf, pull, digest, scrubbed, collected } = await onlyCopy();
    await upstream.close();
    const path = await pathOf(digest);
    const right = await readFile(path);
    const back = how === "missing" ? await away(digest) : async () => writeFile(path, right);
    if (how !== "missing") await writeFile(path, right.subarray(0, 10));
    expect((await scrubbed()).lost).toEqual([]);
    expect(await pull()).toContain(false);
    await back();
    expect(await scrubbed()).toMatchObject({ readopted: 1 });
    expect(await pull()).not.toContain(false);
    await collected(3);
    expect(await pull()).not.toContain(false);
  });
});

test("when blobs go missing while they are scrubbed, as many as usual are taken for lost and no more", async () => {
  const { pushImage, storage, folder, scrubbed, expectPulled } = await operated();
  const images: Image[] = [];
  for (let at = 0; at < 10; at++) images.push(await pushImage("release/app", `${at}`, makeImage([300, 300])));
  const recorded = await storage.metadata.page({ kind: "blob", under: [], limit: 100 });
  const paths = recorded.slice(4).map(({ value }) => join(folder, value.location));
  let unmounted = false;
  const progress = ({ checked }: { checked: number }) => {
    if (checked !== 4 || unmounted) return;
    unmounted = true;
    for (const path of paths) renameSync(path, `${path}.aside`);
  };
  await expect(scrubbed({ progress })).rejects.toMatchObject({
    code: "UNAVAILABLE",
    message: expect.stringContaining("blobs went missing while they were scrubbed"),
  });
  expect(await storage.metadata.page({ kind: "blob", under: [], limit: 100 })).toHaveLength(30 - 9);
  for (const path of paths) renameSync(`${path}.aside`, path);
  expect(await scrubbed()).toMatchObject({ readopted: 9, missing: [], lost: [] });
  for (const image of images) await expectPulled("release/app", image);
});

test("what a cache left to its source is collected once nobody else has it, though the cache's manifest names it", async () => {
  const { ask, upstream, storage, putBlob, putManifest, collected } = await operated({ cache: { maxBytes: "1B" } });
  upstream.addImage("library/app", "1");
  const manifest = await ask("GET", "/v2/hub/library/app/manifests/1");
  const { config, layers } = JSON.parse(manifest.body.toString());
  for (const { digest } of [config, ...layers])
    expect((await putBlob("release/app", (await ask("GET", `/v2/hub/library/app/blobs/${digest}`)).body)).status).toBe(201);
  expect((await putManifest("release/app", "1", manifest.body, manifest.headers["content-type"])).status).toBe(201);
  await collected(3);
  const recorded = async () => (await storage.metadata.page({ kind: "blob", under: [], limit: 100 })).length;
  expect(await recorded()).toBe(1 + layers.length);
  expect((await ask("DELETE", `/v2/release/app/manifests/${digestOf(manifest.body)}`)).status).toBe(202);
  await collected(6);
  expect(await recorded()).toBe(0);
  expect((await ask("GET", `/v2/hub/library/app/blobs/${config.digest}`)).status).toBe(200);
});
