import { randomBytes } from "node:crypto";
import { cached, localRegistry, type Registry, RegistryError } from "oci-manifold";
import { chunksOf, digestOf, parseDigest, type StoringRegistry } from "oci-manifold/extend";
import { findDangling, repair, type ScrubOptions, scrub } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { beforeEach, describe, expect, test } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { makeImage, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf, eventually } from "../fixtures/read.js";
import { spied } from "../fixtures/spy.js";
import { type Damageable, damageableMemory, isRecorded, quarantined } from "./scrub-support.js";
import { corrupting, joined, store, switchable } from "./support.js";

let damageable: Damageable;
let local: StoringRegistry;
let other: StoringRegistry;
let hub: StoringRegistry;
const bytes = randomBytes(100_000);
const digest = digestOf(bytes);

beforeEach(() => {
  damageable = damageableMemory();
  local = localRegistry({ storage: damageable.storage, name: "prerelease" });
  other = localRegistry({ storage: damageable.storage, name: "other" });
  hub = localRegistry({ storage: memoryStorage(), name: "hub" });
});

const run = (o: ScrubOptions = {}) => scrub(damageable.storage, { rate: "1TiB", ...o });
const whole = async (registry: Registry, repository: string, of = digest) =>
  digestOf(await bytesOf(await registry.getBlob(repository, of))) === of;

describe("through an aggregate", () => {
  test.each(["flip", "delete"] as const)("%s: the blob is back for every repository and registry that refers to it", async (how) => {
    for (const registry of [local, other, hub]) await store(registry, "app", digest, bytes);
    await store(local, "copy", digest, bytes);
    await store(local, "kept", digestOf(Buffer.from("x")), Buffer.from("x"));
    const old = await damageable.locationOf(digest);
    await damageable.damage(digest, how);
    const report = await run({ heal: [joined(local, [{ name: "hub", source: hub }])] });
    expect(report).toMatchObject({ checked: 2, healed: 1, received: 100_000, lost: [] });
    expect(report[how === "flip" ? "corrupt" : "missing"]).toHaveLength(1);
    for (const registry of [local, other]) expect(await whole(registry, "app")).toBe(true);
    expect(await whole(local, "copy")).toBe(true);
    expect(await damageable.locationOf(digest)).not.toBe(old);
    expect((await quarantined(damageable.storage)).map(({ location }) => location)).toEqual(how === "flip" ? [old] : []);
    expect(await run()).toMatchObject({ checked: 2, corrupt: [], missing: [], lost: [] });
  });

  test("members are asked in order, and wrong bytes are not taken", async () => {
    for (const registry of [local, hub]) await store(registry, "app", digest, bytes);
    await damageable.damage(digest, "flip");
    const bad = corrupting(hub, new Set([digest as string]));
    const good = spied(hub);
    const report = await run({
      heal: [
        joined(local, [
          { name: "bad", source: bad },
          { name: "good", source: good.registry },
        ]),
      ],
    });
    expect(report).toMatchObject({ healed: 1, received: 200_000, lost: [] });
    expect(good.calls).toEqual([`getBlob app ${digest}`]);
    expect(await whole(local, "app")).toBe(true);
  });

  test("the bytes are out of use before a slow origin is asked, and stay so when it fails; a later scrub goes on", async () => {
    for (const registry of [local, hub]) await store(registry, "app", digest, bytes);
    await damageable.damage(digest, "flip");
    const origin = switchable(hub);
    const seen: string[] = [];
    const source: Registry = {
      ...origin.registry,
      async getBlob(repository, of, o) {
        seen.push((await local.resolveBlob("app", digest)).kind);
        return origin.registry.getBlob(repository, of, o);
      },
    };
    const aggregate = joined(local, [{ name: "hub", source }]);
    origin.down = true;
    const report = await run({ heal: [aggregate] });
    expect(report).toMatchObject({ healed: 0, lost: [{ digest, size: 100_000, omitted: 0, why: "hub: it is down" }] });
    expect(report.lost[0]?.repositories).toEqual([{ registry: "prerelease", repository: "app" }]);
    expect(seen).toEqual(["absent"]);
    expect(await isRecorded(damageable.storage, digest)).toBe(false);
    expect(await run({ heal: [aggregate] })).toMatchObject({ checked: 0, healed: 0, lost: [{ digest }] });
    origin.down = false;
    expect(await run({ heal: [aggregate], dryRun: true })).toMatchObject({ healed: 0 });
    expect(await run({ heal: [aggregate] })).toMatchObject({ checked: 1, corrupt: [], healed: 1, lost: [] });
    expect(await whole(local, "app")).toBe(true);
    expect(await run({ heal: [aggregate] })).toMatchObject({ healed: 0, lost: [] });
  });

  test("only under the rules of a pull: reserved and blocked names are not asked for", async () => {
    for (const registry of [local, hub]) await store(registry, "app", digest, bytes);
    await damageable.damage(digest, "flip");
    const { registry: source, calls } = spied(hub);
    const aggregates = [joined(local, [{ name: "hub", source }], ["app"]), joined(local, [{ name: "hub", source, block: ["app"] }])];
    const report = await run({ heal: aggregates });
    expect(report).toMatchObject({ healed: 0, lost: [{ repositories: [{ repository: "app" }] }] });
    expect(calls.filter((call) => call.startsWith("getBlob"))).toEqual([]);
  });

  test("of another local registry it is of no use", async () => {
    for (const registry of [local, hub]) await store(registry, "app", digest, bytes);
    await damageable.damage(digest, "flip");
    const { registry: source, calls } = spied(hub);
    expect(await run({ heal: [joined(other, [{ name: "hub", source }])] })).toMatchObject({ healed: 0, lost: [{ digest }] });
    expect(calls).toEqual([]);
  });

  test("of the same name over another storage it heals nothing here, and does not say so", async () => {
    for (const registry of [local, hub]) await store(registry, "app", digest, bytes);
    await damageable.damage(digest, "flip");
    const elsewhere = localRegistry({ storage: memoryStorage(), name: "prerelease" });
    const report = await run({ heal: [joined(elsewhere, [{ name: "hub", source: hub }])] });
    expect(report).toMatchObject({ healed: 0, lost: [{ digest, why: expect.stringContaining("did not store it here") }] });
  });

  test("what nobody refers to, or only by way of an origin, is not lost", async () => {
    await store(local, "app", digest, bytes);
    const image = await pushImage(local, "app", "1", makeImage([50_000]));
    const layer = image.layers[0];
    if (!layer) throw new Error("no layer");
    await local.deleteBlob("app", layer.digest);
    await local.addBlobReference("app", layer, { member: "hub", repository: "app" });
    await damageable.damage(digest, "flip");
    await damageable.damage(layer.digest, "flip");
    await local.deleteBlob("app", digest);
    expect(await run()).toMatchObject({ corrupt: { length: 2 }, healed: 0, lost: [] });
  });

  test("a store without room ends nothing", async () => {
    for (const registry of [local, hub]) await store(registry, "app", digest, bytes);
    await store(local, "zzz", digestOf(Buffer.from("x")), Buffer.from("x"));
    const { stage } = damageable.storage.blobs;
    damageable.storage.blobs.stage = async () => {
      throw new RegistryError("INSUFFICIENT_STORAGE", "the disk is full");
    };
    await damageable.damage(digest, "flip");
    const report = await run({ heal: [joined(local, [{ name: "hub", source: hub }])] });
    expect(report).toMatchObject({ checked: 2, healed: 0, lost: [{ digest }] });
    expect(report.lost[0]?.why).toBe("the disk is full");
    damageable.storage.blobs.stage = stage;
    expect(await run({ heal: [joined(local, [{ name: "hub", source: hub }])] })).toMatchObject({ healed: 1 });
  });

  test("a blob of hundreds of repositories is not asked for in each", async () => {
    const blob = { mediaType: "application/octet-stream", digest, size: bytes.byteLength };
    await store(local, "app", digest, bytes);
    for (let at = 0; at < 300; at++) await local.addBlobReference(`team/app-${at}`, blob);
    await damageable.damage(digest, "flip");
    const { registry: source, calls } = spied(hub);
    const report = await run({ heal: [joined(local, [{ name: "hub", source }])] });
    expect(report.lost).toMatchObject([
      { repositories: { length: 10 }, omitted: 291, why: "hub does not have it; only 100 repositories were asked for" },
    ]);
    expect(calls.filter((call) => call.startsWith("getBlob"))).toHaveLength(100);
  });
});

describe("caches", () => {
  const setUp = async () => {
    const clock = fakeClock();
    const { registry: source, calls } = spied(hub);
    const cache = cached(source, { storage: damageable.storage, name: "cache", clock, maxBytes: "1MiB" });
    await store(hub, "app", digest, bytes);
    await bytesOf(await cache.getBlob("app", digest));
    calls.length = 0;
    return { clock, cache, calls };
  };

  test("ask their source with the next pull, and count right", async () => {
    const { clock, cache, calls } = await setUp();
    await damageable.damage(digest, "flip");
    expect(await run({ clock })).toMatchObject({ corrupt: [{ digest }], healed: 0, lost: [] });
    // The bytes may come back, when the source has them no more.
    expect(await damageable.storage.metadata.get(recordKey.cachedBlob("cache", digest))).toBeDefined();
    expect((await damageable.storage.metadata.get(recordKey.link("cache", "app", digest)))?.value).not.toHaveProperty("origin");
    expect(await whole(cache, "app")).toBe(true);
    expect(calls).toEqual([`getBlob app ${digest}`]);
    expect(await whole(cache, "app")).toBe(true);
    expect(calls).toHaveLength(1);
    // What the running cache counted twice is put right by its next count.
    await clock.advance(11 * 60_000);
    const more = randomBytes(1000);
    await store(hub, "app", digestOf(more), more);
    await bytesOf(await cache.getBlob("app", digestOf(more)));
    await eventually(async () => (await cache.status()).bytes === 101_000, "counted");
    await cache.close();
  });

  test("that are given fetch at once, for all registries that refer to the blob", async () => {
    const { clock, cache, calls } = await setUp();
    await store(local, "mine", digest, bytes);
    await damageable.damage(digest, "flip");
    expect(await run({ clock, heal: [cache] })).toMatchObject({ healed: 1, received: 100_000, lost: [] });
    expect(calls).toEqual([`getBlob app ${digest}`]);
    expect(await whole(local, "mine")).toBe(true);
    expect(await whole(cache, "app")).toBe(true);
    expect(calls).toHaveLength(1);
    await cache.close();
  });

  test("that only pass a blob on, since it is too large for them, heal nobody else", async () => {
    const { clock, cache } = await setUp();
    await store(local, "mine", digest, bytes);
    await damageable.damage(digest, "flip");
    const small = cached(hub, { storage: damageable.storage, name: "cache", clock, maxBlobBytes: "1KiB" });
    const report = await run({ clock, heal: [small] });
    expect(report).toMatchObject({ healed: 0, received: 100_000, lost: [{ why: "cache cache has it and did not store it here" }] });
    await Promise.all([cache.close(), small.close()]);
  });

  test("whose source has it no more have lost nothing, while a local registry has", async () => {
    const { clock, cache } = await setUp();
    await store(local, "mine", digest, bytes);
    await damageable.damage(digest, "flip");
    await hub.deleteBlob("app", digest);
    const report = await run({ clock, heal: [cache] });
    expect(report.lost).toMatchObject([
      { repositories: [{ registry: "prerelease", repository: "mine" }], why: "cache cache does not have it" },
    ]);
    await cache.close();
  });

  test("behind a connector, over the same storage", async () => {
    const { clock, cache } = await setUp();
    await local.addBlobReference("app", { mediaType: "application/octet-stream", digest, size: bytes.byteLength });
    await damageable.damage(digest, "flip");
    const aggregate = joined(local, [{ name: "hub", source: cache }]);
    expect(await run({ clock, heal: [aggregate] })).toMatchObject({ healed: 1, lost: [] });
    expect(await whole(local, "app")).toBe(true);
    expect(await whole(cache, "app")).toBe(true);
    await cache.close();
  });
});

describe("what is not healed", () => {
  test("is served through the aggregate by a connector that has it, seen by an audit, and brought by repair", async () => {
    const image = await pushImage(local, "app", "1", makeImage([100_000]));
    const [layer = digest] = image.layers.map((one) => one.digest);
    await damageable.damage(layer, "flip");
    await run();
    expect((await findDangling(joined(local, []))).dangling).toMatchObject([{ reference: { digest: layer } }]);
    await pushBlobs(hub, "app", image);
    const aggregate = joined(local, [{ name: "hub", source: hub }]);
    expect(await whole(aggregate, "app", layer)).toBe(true);
    expect(await repair(aggregate)).toMatchObject({ repaired: 1, lost: [] });
    expect(await whole(local, "app", layer)).toBe(true);
    expect(await quarantined(damageable.storage)).toHaveLength(1);
  });

  test("is healed by a push, also one that began before", async () => {
    await store(local, "app", digest, bytes);
    const early = await local.startUpload("early");
    await early.append(chunksOf(bytes));
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const pushing = other.putBlob(
      "app",
      { digest, size: bytes.byteLength },
      (async function* () {
        yield bytes.subarray(0, 50_000);
        await held;
        yield bytes.subarray(50_000);
      })(),
    );
    await damageable.damage(digest, "flip");
    expect(await run()).toMatchObject({ corrupt: [{ digest }] });
    await early.commit(digest);
    release();
    await pushing;
    for (const [registry, repository] of [
      [local, "app"],
      [local, "early"],
      [other, "app"],
    ] as const)
      expect(await whole(registry, repository)).toBe(true);
    expect(
      await damageable.storage.metadata.get(recordKey.quarantine(parseDigest(digest), await damageable.locationOf(digest))),
    ).toBeUndefined();
    expect(await run()).toMatchObject({ checked: 1, corrupt: [] });
  });

  test("nor is a push lost that uses the blob at the very moment it is taken out", async () => {
    await store(local, "app", digest, bytes);
    await damageable.damage(digest, "flip");
    const { metadata } = damageable.storage;
    const { commit } = metadata;
    let raced = false;
    metadata.commit = async (conditions, changes) => {
      // Just before the push makes use of the bytes that are recorded.
      if (!raced && changes.some((change) => "put" in change && change.put.kind === "link")) {
        raced = true;
        await run();
      }
      return commit.call(metadata, conditions, changes);
    };
    await store(other, "app", digest, bytes);
    expect(raced).toBe(true);
    expect(await whole(other, "app")).toBe(true);
    expect(await whole(local, "app")).toBe(true);
  });
});
