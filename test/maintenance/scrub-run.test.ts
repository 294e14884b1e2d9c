import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { localRegistry, mediaTypes, type Storage } from "oci-manifold";
import { digestOf, type StoringRegistry } from "oci-manifold/extend";
import { repair, type ScrubProgress, scrub } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock, transactionMetadataStore } from "oci-manifold/testing";
import { beforeEach, describe, expect, test } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { bytesOf } from "../fixtures/read.js";
import { answering, damageableMemory, isRecorded, locationIn, quarantined } from "./scrub-support.js";
import { joined, put, rejection, store } from "./support.js";

const MiB = 1024 * 1024;
const KiB = 1024;
let storage: Storage;
let local: StoringRegistry;

beforeEach(() => {
  storage = memoryStorage();
  local = localRegistry({ storage, name: "release" });
});

async function push(size: number, registry = local): Promise<string> {
  const bytes = randomBytes(size);
  await store(registry, "app", digestOf(bytes), bytes);
  return digestOf(bytes);
}

/** Every stored blob is read in chunks of this size, and counted as it is. */
function chunked(size: number): { read: number; open: number; mostOpen: number } {
  const counted = { read: 0, open: 0, mostOpen: 0 };
  const { read } = storage.blobs;
  answering(storage.blobs, (location) => {
    const chunks = async function* () {
      const bytes = Buffer.concat(await read.call(storage.blobs, location).toArray());
      counted.mostOpen = Math.max(counted.mostOpen, ++counted.open);
      try {
        for (let at = 0; at < bytes.byteLength; at += size) {
          const chunk = bytes.subarray(at, at + size);
          counted.read += chunk.byteLength;
          yield chunk;
        }
      } finally {
        counted.open--;
      }
    };
    return Readable.from(chunks(), { objectMode: false, highWaterMark: 1 });
  });
  return counted;
}

describe("the rate", () => {
  test.each([1, 3])("is kept to, evenly, by %i at a time", async (concurrency) => {
    const clock = fakeClock();
    for (const size of [20 * MiB, 10 * MiB, 70 * KiB, 1, 0, 3 * MiB]) await push(size);
    const counted = chunked(64 * KiB);
    const rate = 10 * MiB;
    // What a stream reads ahead, and what is not worth a sleep.
    const step = concurrency * 2 * 64 * KiB + rate * 0.02;
    let over = false;
    const running = scrub(storage, { clock, rate: "10MiB", concurrency }).finally(() => {
      over = true;
    });
    const started = clock.now();
    let longestStill = 0;
    for (let still = 0, last = -1; !over; ) {
      await clock.advance(10);
      const elapsed = (clock.now() - started) / 1000;
      expect(counted.read).toBeLessThanOrEqual(rate * elapsed + step);
      still = counted.read === last ? still + 10 : 0;
      last = counted.read;
      longestStill = Math.max(longestStill, still);
    }
    const { bytes, checked } = await running;
    expect({ bytes, checked }).toEqual({ bytes: 33 * MiB + 70 * KiB + 1, checked: 6 });
    const took = (clock.now() - started) / 1000;
    expect(took).toBeGreaterThan(3.25);
    expect(took).toBeLessThan(3.6);
    expect(longestStill).toBeLessThan(100);
    expect(counted.mostOpen).toBe(concurrency);
  });

  test("holds for second reads, and no burst follows a pause", async () => {
    const { storage: damaged, damage } = damageableMemory();
    storage = damaged;
    const clock = fakeClock();
    await damage(await push(MiB, localRegistry({ storage, name: "release" })), "flip");
    const running = scrub(storage, { clock, rate: "1MiB" });
    await clock.advance(1900);
    expect(await quarantined(storage)).toEqual([]);
    await clock.advance(200);
    expect(await running).toMatchObject({ bytes: 2 * MiB, corrupt: { length: 1 } });
  });

  test("one that makes no sense is refused", async () => {
    expect(await rejection(scrub(storage, { rate: "0B" }))).toMatchObject({ message: expect.stringContaining("never ends") });
    expect(await rejection(scrub(storage, { rate: "fast" as never }))).toMatchObject({ code: "UNKNOWN" });
    expect(await rejection(scrub(storage, { concurrency: 0 }))).toMatchObject({ code: "UNKNOWN" });
    expect(await rejection(scrub(storage, { after: "somewhere" }))).toMatchObject({ code: "DIGEST_INVALID" });
  });
});

describe("progress", () => {
  test.each([1, 4])("goes in order of digests, also with %i at a time, and a scrub goes on behind it", async (concurrency) => {
    const digests: string[] = [];
    for (let count = 0; count < 250; count++) digests.push(await push(count));
    digests.sort();
    const told: ScrubProgress[] = [];
    const controller = new AbortController();
    const progress = (at: ScrubProgress) => {
      if (told.push(at) === 120) controller.abort(new Error("morning"));
    };
    const { signal } = controller;
    expect(await rejection(scrub(storage, { rate: "1TiB", concurrency, signal, progress }))).toMatchObject({ message: "morning" });
    expect(told.map(({ after }) => after)).toEqual(digests.slice(0, 120));
    const { after } = told.at(-1) ?? {};
    const rest = await scrub(storage, { rate: "1TiB", concurrency, ...(after !== undefined && { after }) });
    expect(rest.checked).toBe(130);
  });

  test("is told within a large blob", async () => {
    await push(66 * MiB);
    const told: ScrubProgress[] = [];
    chunked(MiB);
    await scrub(storage, { rate: "1TiB", progress: (at) => told.push(at) });
    expect(told.map(({ bytes, checked }) => [Math.floor(bytes / MiB), checked])).toEqual([
      [64, 0],
      [66, 1],
    ]);
    expect(told[0]).not.toHaveProperty("after");
  });

  test("that throws ends the scrub", async () => {
    await push(10);
    const progress = () => {
      throw new Error("no more");
    };
    expect(await rejection(scrub(storage, { progress }))).toMatchObject({ message: "no more" });
  });
});

describe("an abort", () => {
  test("ends a sleep, a read that waits for ever, and what has not begun", async () => {
    const clock = fakeClock();
    await push(MiB);
    const sleeping = new AbortController();
    const asleep = scrub(storage, { clock, rate: "1KiB", signal: sleeping.signal });
    await clock.advance(1000);
    sleeping.abort(new Error("sleep"));
    expect(await rejection(asleep)).toMatchObject({ message: "sleep" });

    const stalled = new Readable({ read() {} });
    answering(storage.blobs, () => stalled);
    const reading = new AbortController();
    const waiting = scrub(storage, { clock, signal: reading.signal });
    await clock.advance(1000);
    reading.abort(new Error("read"));
    expect(await rejection(waiting)).toMatchObject({ message: "read" });
    expect(stalled.destroyed).toBe(true);

    expect(await rejection(scrub(storage, { signal: AbortSignal.abort(new Error("before")) }))).toMatchObject({ message: "before" });
  });

  /** The storage with every question to it counted; with the n-th the signal aborts. */
  function abortedAt(at: number) {
    const { metadata, blobs } = storage;
    const controller = new AbortController();
    const questions = { all: 0 };
    const counting = <T extends object>(of: T, methods: readonly (keyof T)[]): T => {
      const counted = Object.fromEntries(
        methods.map((method) => [
          method,
          (...args: unknown[]) => {
            if (++questions.all === at) controller.abort(new Error("enough"));
            return (of[method] as (...args: unknown[]) => unknown).apply(of, args);
          },
        ]),
      );
      return { ...of, ...counted };
    };
    const counted: Storage = {
      metadata: counting(metadata, ["get", "page", "names", "commit"]),
      blobs: counting(blobs, ["read", "list", "delete"]),
    };
    return { counted, signal: controller.signal, questions };
  }

  test.each([1, 2, 3, 50, 150, 400])(
    "with the %ith question to the store is the last but a few, also among blobs that earlier scrubs took out",
    async (at) => {
      for (let count = 0; count < 300; count++) {
        const digest = await push(10 + count);
        if (count >= 100) continue;
        const location = await locationIn(storage, digest);
        await storage.metadata.commit(
          [],
          [
            { remove: { kind: "blob", parts: [digest] } },
            { put: { kind: "quarantine", parts: [digest, location] }, value: { size: 10 + count, why: "a test", at: 0 } },
          ],
        );
      }
      const { counted, signal, questions } = abortedAt(at);
      const concurrency = 3;
      expect(await rejection(scrub(counted, { rate: "1TiB", concurrency, maxMissing: 0.5, signal }))).toEqual(new Error("enough"));
      expect(questions.all).toBeLessThan(at + 3 * concurrency);
    },
  );

  test("one that fails ends the others, with its own error", async () => {
    const digests = [await push(MiB), await push(MiB), await push(MiB)].sort();
    const first = await locationIn(storage, digests[0] ?? "");
    const stalled = new Readable({ read() {} });
    answering(storage.blobs, (location) => (location === first ? stalled : Readable.from([Buffer.from("wrong")], { objectMode: false })));
    storage.metadata.commit = async () => {
      throw new Error("the database is gone");
    };
    expect(await rejection(scrub(storage, { rate: "1TiB", concurrency: 3 }))).toMatchObject({ message: "the database is gone" });
    expect(stalled.destroyed).toBe(true);
  });
});

describe("a record that changes while its bytes are read", () => {
  const bytes = randomBytes(1000);
  const digest = digestOf(bytes);
  const key = recordKey.blob(digest);

  /** The old place gives wrong bytes, and during the first or second read of it `change` happens. */
  const meanwhile = async (during: number, change: () => Promise<unknown>) => {
    await store(local, "app", digest, bytes);
    await push(10);
    const old = await locationIn(storage, digest);
    let reads = 0;
    answering(storage.blobs, (location) => {
      if (location !== old) return undefined;
      const wrong = async function* () {
        if (++reads === during) await change();
        yield Buffer.alloc(1000, "x");
      };
      return Readable.from(wrong(), { objectMode: false });
    });
    return { old, report: await scrub(storage, { rate: "1TiB" }) };
  };
  const mark = async () => {
    const stored = await storage.metadata.get(key);
    if (stored) await storage.metadata.commit([], [{ put: key, value: { ...stored.value, condemned: true } }]);
  };

  test.each([1, 2])("is looked at anew where it leads then: restored during read %i", async (during) => {
    const { report, old } = await meanwhile(during, () => local.restoreBlob({ digest, size: 1000 }, Readable.from([bytes])));
    expect(report).toMatchObject({ checked: 2, corrupt: [], missing: [], unreadable: [] });
    expect(await locationIn(storage, digest)).not.toBe(old);
    expect((await bytesOf(await local.getBlob("app", digest))).equals(bytes)).toBe(true);
    expect(await quarantined(storage)).toEqual([]);
  });

  test.each([1, 2])("is skipped when it is gone: evicted during read %i", async (during) => {
    const { report } = await meanwhile(during, async () => {
      const stored = await storage.metadata.get(key);
      await storage.metadata.commit([], [{ remove: key }]);
      await storage.blobs.delete(stored?.value.location ?? "");
    });
    expect(report).toMatchObject({ checked: 1, corrupt: [], missing: [], unreadable: [] });
    expect(await quarantined(storage)).toEqual([]);
  });

  test("is judged all the same when it was marked or unmarked: the location is the same", async () => {
    const { report, old } = await meanwhile(2, mark);
    expect(report).toMatchObject({ checked: 2, corrupt: [{ digest, location: old }] });
    expect(await isRecorded(storage, digest)).toBe(false);
  });

  test("between the look and the commit", async () => {
    const { commit } = storage.metadata;
    let raced = false;
    storage.metadata.commit = async (conditions, changes) => {
      if (!raced && changes.some((change) => "put" in change && change.put.kind === "quarantine")) {
        raced = true;
        await local.restoreBlob({ digest, size: 1000 }, Readable.from([bytes]));
      }
      return commit.call(storage.metadata, conditions, changes);
    };
    const { report } = await meanwhile(0, async () => {});
    expect(raced).toBe(true);
    expect(report).toMatchObject({ checked: 2, corrupt: [] });
    expect((await bytesOf(await local.getBlob("app", digest))).equals(bytes)).toBe(true);
    expect(await quarantined(storage)).toEqual([]);
  });
});

describe("several scrubs, and one that was killed", () => {
  const setUp = async (both: Storage) => {
    const hub = localRegistry({ storage: memoryStorage(), name: "hub" });
    const registry = localRegistry({ storage: both, name: "release" });
    const contents = Array.from({ length: 4 }, () => randomBytes(1000));
    for (const bytes of contents) for (const one of [hub, registry]) await store(one, "app", digestOf(bytes), bytes);
    // The catalog lists only repositories with manifests.
    await put(registry, "app", "1", Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] })));
    const wrong = new Set<string>();
    for (const bytes of contents.slice(0, 2)) wrong.add(await locationIn(both, digestOf(bytes)));
    answering(both.blobs, (location) =>
      wrong.has(location) ? Readable.from([Buffer.alloc(1000, "x")], { objectMode: false }) : undefined,
    );
    const gone = await locationIn(both, digestOf(contents[2] ?? Buffer.alloc(0)));
    await both.blobs.delete(gone);
    const aggregate = joined(registry, [{ name: "hub", source: hub }]);
    const allRight = async () => {
      for (const bytes of contents) expect((await bytesOf(await registry.getBlob("app", digestOf(bytes)))).equals(bytes)).toBe(true);
      expect(new Set((await quarantined(both)).map(({ location }) => location))).toEqual(wrong);
    };
    return { storage: both, hub, aggregate, allRight };
  };

  test("at the same time do no harm", async () => {
    const { storage: shared, aggregate, allRight } = await setUp({ blobs: memoryStorage().blobs, metadata: transactionMetadataStore() });
    const reports = await Promise.all(Array.from({ length: 4 }, () => scrub(shared, { rate: "1TiB", heal: [aggregate], concurrency: 2 })));
    expect(reports.flatMap(({ corrupt }) => corrupt)).toHaveLength(2);
    expect(reports.flatMap(({ missing }) => missing)).toHaveLength(1);
    expect(reports.flatMap(({ lost }) => lost)).toEqual([]);
    await allRight();
  });

  test("at whichever operation of the store it was killed, another one ends the work", async () => {
    let killed = 0;
    for (let line = 1; ; line++) {
      const { storage: shared, hub, aggregate, allRight } = await setUp(memoryStorage());
      let left = line;
      let dead = false;
      const mortal = <T extends object>(part: T): T =>
        new Proxy(part, {
          get(target, property) {
            const value: unknown = Reflect.get(target, property);
            if (typeof value !== "function") return value;
            return (...args: unknown[]) => {
              if (left-- <= 0) dead = true;
              if (dead) throw new Error("killed");
              return value.apply(target, args);
            };
          },
        });
      const dying: Storage = { blobs: mortal(shared.blobs), metadata: mortal(shared.metadata) };
      const heal = [joined(localRegistry({ storage: dying, name: "release" }), [{ name: "hub", source: hub }])];
      const first = await rejection(scrub(dying, { rate: "1TiB", heal }));
      if (first === undefined && !dead) break;
      killed++;
      const report = await scrub(shared, { rate: "1TiB", heal: [aggregate] });
      expect(report.corrupt.length + report.missing.length).toBeLessThanOrEqual(3);
      // What was missing is remembered by nobody; blob references are what repair goes by.
      await repair(aggregate);
      await allRight();
    }
    expect(killed).toBeGreaterThan(50);
  }, 60_000);
});
