import { randomBytes } from "node:crypto";
import { type CachedOptions, cached, localRegistry, orThrow, type Storage } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock, transactionMetadataStore } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { bytesOf, eventually } from "../fixtures/read.js";
import { spied } from "../fixtures/spy.js";
import { gate, scriptedSource } from "./scripted-source.js";
import { settled } from "./support.js";

const KiB = 1024;

/** A cache in front of a registry with so many blobs of 100 KiB, each asked for a minute after the one before. */
async function filled(count: number, options: Partial<CachedOptions> = {}) {
  const clock = fakeClock();
  const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
  const { registry: source, calls } = spied(origin);
  const storage: Storage = options.storage ?? memoryStorage();
  const faults: object[] = [];
  const events = { emit: (type: string, event: object) => void (type === "fault" && faults.push(event)) };
  const hub = cached(source, { name: "hub", clock, events, ...options, storage });
  const add = async () => {
    const bytes = randomBytes(100 * KiB);
    const { digest } = await origin.putBlob("app", { digest: digestOf(bytes) }, chunksOf(bytes));
    return digest;
  };
  const pull = async (digest: string) => {
    await clock.advance(60_001);
    expect(digestOf(await bytesOf(await hub.getBlob("app", digest)))).toBe(digest);
  };
  const digests: string[] = [];
  for (let index = 0; index < count; index++) {
    const digest = await add();
    digests.push(digest);
    await pull(digest);
  }
  const kept = async () => {
    const locations = (await storage.blobs.list({ limit: 1000 })).items.map(({ location }) => location);
    return digests.map((digest) => locations.some((location) => location.includes(digest.slice(7))));
  };
  return { hub, clock, origin, storage, digests, add, pull, kept, calls, faults };
}

const bytesKept = async (hub: { status(): Promise<{ bytes: number }> }) => (await hub.status()).bytes / KiB;

describe("the budget of a cache", () => {
  test("may be used up", async () => {
    const { hub, kept, digests, pull, calls } = await filled(10, { maxBytes: "1000KiB" });
    expect(await bytesKept(hub)).toBe(1000);
    calls.length = 0;
    await pull(digests[3] ?? "");
    expect(calls).toEqual([]);
    expect(await kept()).toEqual(digests.map(() => true));
    await hub.close();
  });

  test("is kept to: what was used longest ago goes, down to the low watermark, and comes back when it is asked for", async () => {
    const { hub, kept, digests, pull, add, calls } = await filled(10, { maxBytes: "1000KiB" });
    await pull(digests[0] ?? "");
    await pull(await add());
    await eventually(async () => (await bytesKept(hub)) === 900, "evicted");
    expect(await kept()).toEqual([true, false, false, ...digests.slice(3).map(() => true)]);
    calls.length = 0;
    await pull(digests[1] ?? "");
    expect(calls).toEqual([`getBlob app ${digests[1]}`]);
    await hub.close();
  });

  test("is counted again after a restart", async () => {
    const { hub, storage, origin, clock } = await filled(5);
    await hub.close();
    const again = cached(origin, { storage, name: "hub", clock, maxBytes: "300KiB" });
    expect(await bytesKept(again)).toBe(500);
    await again.close();
  });

  test("is not overshot by fills that end together", async () => {
    const { hub, add, clock } = await filled(10, { maxBytes: "1000KiB" });
    const more = await Promise.all(Array.from({ length: 5 }, add));
    await clock.advance(60_001);
    await Promise.all(more.map(async (digest) => bytesOf(await hub.getBlob("app", digest))));
    await eventually(async () => (await bytesKept(hub)) <= 1000, "evicted");
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(await bytesKept(hub)).toBeGreaterThanOrEqual(900);
    await hub.close();
  });

  test("never costs what is being filled, or was asked for within the last minute", async () => {
    const { hub, digests, kept, clock, origin, storage } = await filled(1, { maxBytes: "150KiB" });
    const bytes = randomBytes(140 * KiB);
    const { open, passed } = gate();
    const { source, digest } = scriptedSource(bytes, () => ({ holdAt: 100_000, until: passed }));
    const other = cached(source, { storage, name: "other", clock, maxBytes: "150KiB" });
    const filling = other.getBlob("app", digest).then(bytesOf);
    await bytesOf(await hub.getBlob("app", digests[0] ?? ""));
    const fresh = randomBytes(90 * KiB);
    await origin.putBlob("app", { digest: digestOf(fresh) }, chunksOf(fresh));
    await bytesOf(await hub.getBlob("app", digestOf(fresh)));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await bytesKept(hub)).toBe(190);
    expect(await kept()).toEqual([true]);
    open();
    expect((await filling).equals(bytes)).toBe(true);
    await hub.close();
    await other.close();
  });
});

describe("an eviction when a cache with a smaller budget is made ready", () => {
  /** The cache once more, with a budget for two of its blobs. `removing` is told the number of each blob that is removed. */
  async function smaller(count: number, removing: (removed: number) => void) {
    const { hub, storage, origin, clock } = await filled(count);
    await hub.close();
    await clock.advance(60_001);
    const remove = storage.blobs.delete.bind(storage.blobs);
    let removed = 0;
    storage.blobs.delete = async (location) => {
      removing(++removed);
      await remove(location);
    };
    const faults: object[] = [];
    const events = { emit: (type: string, event: object) => void (type === "fault" && faults.push(event)) };
    const open = () => cached(origin, { storage, name: "hub", clock, maxBytes: "200KiB", events });
    return { hub: open(), open, storage, removed: () => removed, faults };
  }

  test("is not waited for", async () => {
    const held = gate();
    const { hub, storage, removed } = await smaller(5, () => {});
    const remove = storage.blobs.delete;
    storage.blobs.delete = async (location) => {
      await held.passed;
      await remove(location);
    };
    await hub.ready();
    expect(removed()).toBe(0);
    held.open();
    await eventually(async () => removed() === 4, "evicted");
    expect(await bytesKept(hub)).toBe(100);
    await hub.close();
  });

  test("is not done again", async () => {
    const { hub, removed } = await smaller(5, () => {});
    await hub.ready();
    await eventually(async () => removed() === 4, "evicted");
    await hub.ready();
    await settled();
    expect([removed(), await bytesKept(hub)]).toEqual([4, 100]);
    await hub.close();
  });

  test("ends when the cache is closed, without a fault, and goes on at the next start", async () => {
    let closed: Promise<void> | undefined;
    const { hub, open, removed, faults } = await smaller(5, (number) => {
      if (number === 2) closed = hub.close();
    });
    await hub.ready();
    await eventually(async () => closed !== undefined, "closed");
    await closed;
    await settled();
    expect([removed(), faults]).toEqual([2, []]);
    const again = open();
    await again.ready();
    await eventually(async () => removed() === 4, "evicted");
    await again.close();
  });

  test("that fails is told, and the cache is ready", async () => {
    const { hub, storage, faults } = await smaller(5, () => {});
    const page = storage.metadata.page.bind(storage.metadata);
    storage.metadata.page = async (range) => {
      if (range.kind === "cachedBlob") throw new Error("the database is gone");
      return page(range);
    };
    await hub.ready();
    await eventually(async () => faults.length > 0, "told");
    expect(faults).toMatchObject([{ registry: "hub", message: "eviction failed: the database is gone" }]);
    await hub.close();
  });
});

describe("a part of the volume", () => {
  const volume = (free: number) => {
    const storage = memoryStorage();
    const space = { total: 10_000 * KiB, free };
    storage.blobs.space = async () => space;
    const remove = storage.blobs.delete.bind(storage.blobs);
    storage.blobs.delete = async (location) => {
      space.free += 100 * KiB;
      await remove(location);
    };
    return { storage, space };
  };

  test("stays free", async () => {
    const { storage, space } = volume(5000 * KiB);
    const { hub, pull, add, kept } = await filled(5, { storage });
    space.free = 800 * KiB;
    await pull(await add());
    await eventually(async () => (await bytesKept(hub)) === 400, "evicted");
    expect(await kept()).toEqual([false, false, true, true, true]);
    await hub.close();
  });

  test("is as large as the host says", async () => {
    const { storage } = volume(800 * KiB);
    const { hub } = await filled(3, { storage, keepFree: 0.05 });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await bytesKept(hub)).toBe(300);
    await hub.close();
  });
});

describe("what another registry of the storage refers to", () => {
  test("stays, is pushed over by nobody, and goes when it is no longer referred to", async () => {
    const storage = { blobs: memoryStorage().blobs, metadata: transactionMetadataStore() };
    const { hub, digests, pull, add, kept, clock } = await filled(3, { storage, maxBytes: "300KiB" });
    const release = localRegistry({ storage, name: "release", clock });
    const [first = ""] = digests;
    expect(await release.mountBlob("app", first, { registry: hub, repository: "app" })).toMatchObject({ digest: first });
    await pull(await add());
    await eventually(async () => (await bytesKept(hub)) <= 300, "evicted");
    expect(await kept()).toEqual([true, false, false]);
    expect(orThrow(await release.resolveBlob("app", first)).digest).toBe(first);
    await release.deleteBlob("app", first);
    await pull(await add());
    await pull(await add());
    await eventually(async () => (await kept())[0] === false, "goes");
    await hub.close();
  });

  test("a thousand such blobs of the same age do not hold an eviction up", async () => {
    const storage = memoryStorage();
    const clock = fakeClock();
    const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
    const hub = cached(origin, { storage, name: "hub", clock, maxBytes: "10KiB" });
    const release = localRegistry({ storage, name: "release", clock });
    for (let index = 0; index < 1100; index++) {
      const bytes = Buffer.from(`blob ${index}`);
      const { digest } = await origin.putBlob("app", { digest: digestOf(bytes) }, chunksOf(bytes));
      await bytesOf(await hub.getBlob("app", digest));
      await release.mountBlob("app", digest, { registry: hub, repository: "app" });
    }
    await clock.advance(120_000);
    const bytes = randomBytes(9 * KiB);
    await origin.putBlob("app", { digest: digestOf(bytes) }, chunksOf(bytes));
    await bytesOf(await hub.getBlob("app", digestOf(bytes)));
    expect(await storage.blobs.list({ limit: 2000 }).then(({ items }) => items.length)).toBe(1101);
    await hub.close();
  });
});

describe("bytes that two registries have", () => {
  test("are given up by a cache over its budget, and stay for the other", async () => {
    const { hub, storage, origin, digests, add, pull, kept, clock } = await filled(2, { maxBytes: "300KiB" });
    const [shared = "", other = ""] = digests;
    const second = cached(origin, { storage, name: "second", clock });
    for (const digest of [shared, other]) expect(digestOf(await bytesOf(await second.getBlob("app", digest)))).toBe(digest);
    expect((await second.status()).bytes).toBe(200 * KiB);
    for (let more = 0; more < 2; more++) await pull(await add());
    await eventually(async () => (await bytesKept(hub)) <= 270, "given up");
    expect(await kept()).toEqual([true, true]);
    expect(digestOf(await bytesOf(await second.getBlob("app", shared)))).toBe(shared);
    // And back again for the first, without a transfer.
    await pull(shared);
    expect(await kept()).toEqual([true, true]);
    await hub.close();
    await second.close();
  });

  test("go when the last of them gives them up", async () => {
    const { hub, storage, origin, digests, add, pull, kept, clock } = await filled(2, { maxBytes: "200KiB" });
    const second = cached(origin, { storage, name: "second", clock, maxBytes: "200KiB" });
    for (const digest of digests) await bytesOf(await second.getBlob("app", digest));
    const more = [await add(), await add(), await add()];
    for (const digest of more) await pull(digest);
    for (const digest of more) {
      await clock.advance(60_001);
      await bytesOf(await second.getBlob("app", digest));
    }
    await eventually(async () => !(await kept())[0] && !(await kept())[1], "freed");
    await hub.close();
    await second.close();
  });
});

test("an eviction that was killed half way harms nobody: blob references and reads take the mark away", async () => {
  const storage = memoryStorage();
  const { hub, digests, clock } = await filled(2, { storage });
  const [mine = "", theirs = ""] = digests;
  const release = localRegistry({ storage, name: "release", clock });
  for (const digest of [mine, theirs]) {
    const key = { kind: "blob" as const, parts: [digest] };
    const stored = await storage.metadata.get(key);
    if (!stored) throw new Error("not stored");
    await storage.metadata.commit([], [{ put: key, value: { ...stored.value, condemned: true } }]);
  }
  expect((await hub.resolveBlob("app", mine)).kind).toBe("found");
  expect(await release.mountBlob("app", theirs, { registry: hub, repository: "app" })).toMatchObject({ digest: theirs });
  expect(digestOf(await bytesOf(await release.getBlob("app", theirs)))).toBe(theirs);
  await hub.close();
});
