import { setImmediate as nextTurn, setTimeout as timer } from "node:timers/promises";
import { type AggregateRegistry, aggregate, cached, type LocalRegistry, localRegistry, type Storage } from "oci-manifold";
import { exportLayout, importLayout } from "oci-manifold/layout";
import { browse, collectGarbage, copyToLocal, findDangling, impactOfRemoving, promote, repair } from "oci-manifold/maintenance";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { untilAborted } from "../../src/core/until-aborted.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { fillCache, fillManifests, many, type Watch, watched } from "./many-records.js";
import { rejection } from "./support.js";

interface Work {
  readonly storage: Storage;
  readonly registry: LocalRegistry;
  readonly all: AggregateRegistry;
  readonly folder: string;
  /** A layout with some of the images. */
  readonly exported: Promise<string>;
  /** What the blobs of a cache take up. */
  readonly cacheBytes: Promise<number>;
  readonly signal: AbortSignal | undefined;
}

/** The most that a turn's units pay for, with what one page may exceed them by. */
const readsInTurn = 3000;
/** A pull is two reads, and each waits for its turn behind others. */
const readsInPull = 12_000;
/** What may still begin when a signal has ended the work: what ran beside what ended it. */
const readsAfterAbort = 30;

const tags = Array.from({ length: 1000 }, (_, index) => many.tag(index));
const signalOf = (signal: AbortSignal | undefined) => (signal ? { signal } : {});
const ofQuota = (storage: Storage) => localRegistry({ storage, name: many.registry, maxBytes: "1TiB" });

/** What walks over all records, or over those of a thousand images. In an order in which none takes away what a later one needs. */
const works: Readonly<Record<string, (o: Work) => Promise<unknown>>> = {
  "an audit": ({ all, signal }) => findDangling(all, signalOf(signal)),
  "a pin of everything": ({ all, signal }) => copyToLocal(all, "all", signalOf(signal)),
  "the impact of removing a connector": ({ all, signal }) => impactOfRemoving(all, "upstream", signalOf(signal)),
  "a repair": ({ all, signal }) => repair(all, signalOf(signal)),
  "a count of usage": ({ registry, signal }) => registry.usage(signalOf(signal)),
  "making a registry with a new quota ready": ({ storage, signal }) => ofQuota(storage).ready(signalOf(signal)),
  "a recount of a quota": ({ storage, signal }) => ofQuota(storage).usage({ recount: true, ...signalOf(signal) }),
  "the eviction of a cache with a smaller budget": async ({ storage, cacheBytes, signal }) => {
    const half = Math.floor((await cacheBytes) / 2);
    // A source of its own, which ends with the cache.
    const cache = cached(localRegistry({ storage, name: "source" }), { storage, name: many.cache, maxBytes: `${half}B` });
    const trimmed = async () => {
      while ((await cache.status()).bytes > half) await nextTurn();
    };
    try {
      await cache.ready(signalOf(signal));
      // It goes on in the background until it is done, or the cache is closed.
      await untilAborted(trimmed(), signal);
    } finally {
      await cache.close({ deadline: "1ms" });
    }
  },
  "a page of browsing": ({ registry, signal }) => browse(registry, many.repository, { limit: 1000 }, signalOf(signal)),
  "a promotion": ({ registry, storage, signal }) =>
    promote(registry, localRegistry({ storage, name: "target" }), { repository: many.repository, tags, by: "ana", ...signalOf(signal) }),
  "an export": ({ registry, folder, signal }) =>
    exportLayout(registry, `${folder}/layout`, { repository: many.repository, references: tags, ...signalOf(signal) }),
  "an import": async ({ storage, exported, signal }) =>
    importLayout(localRegistry({ storage, name: "imported" }), await exported, { repository: "app", ...signalOf(signal) }),
  "a dry run of a collection": ({ storage, signal }) => collectGarbage(storage, { dryRun: true, ...signalOf(signal) }),
  "a collection": async ({ storage, registry, signal }) => {
    // A registry that has no quota any more: with one, blob references are removed one after the other.
    await registry.ready();
    return collectGarbage(storage, { clock: hurried(), ...signalOf(signal) });
  },
};

/** A clock whose sleeps are over at once: a collection waits a minute for readers. */
function hurried() {
  const clock = fakeClock(Date.now());
  return { ...clock, now: () => Date.now(), sleep: async () => {} };
}

/** Every function that works through `count` images lets others have their turn, and ends with its signal. */
export function manyRecordsCases(count: number, open: () => Storage): void {
  const watch: Watch = watched(open());
  const { storage } = watch;
  const registry = localRegistry({ storage, name: many.registry });
  const upstream = localRegistry({ storage, name: "upstream" });
  const all = aggregate({ local: registry, connectors: [{ name: "upstream", source: upstream }] });
  const filled = fillManifests(storage, count);
  const cacheBytes = filled.then(() => fillCache(storage, count));
  const exported = cacheBytes.then(async () => {
    const layout = `${temporaryFolder()}/some`;
    await exportLayout(registry, layout, { repository: many.repository, references: tags.slice(0, 400) });
    return layout;
  });
  const work = (run: (o: Work) => Promise<unknown>, signal?: AbortSignal) =>
    run({ storage, registry, all, folder: temporaryFolder(), exported, cacheBytes, signal });

  for (const [name, run] of Object.entries(works)) {
    test(`${name} that is aborted reads no further, and rejects with the signal's reason`, async () => {
      await exported;
      const signal = watch.abortAfter(100);
      expect(await rejection(work(run, signal))).toEqual(new Error("enough"));
      expect(watch.readsAfterAbort()).toBeLessThan(readsAfterAbort);
    });

    test(`${name} lets timers and pulls have their turn`, async () => {
      await exported;
      watch.reset();
      let over = false;
      let pulls = 0;
      const pulling = (async () => {
        while (!over) {
          await timer(1);
          if ((await registry.getManifest(many.repository, many.tag(pulls % count))).kind === "found") pulls++;
        }
      })();
      await work(run).finally(() => {
        over = true;
      });
      await pulling;
      expect(watch.mostInTurn()).toBeLessThan(readsInTurn);
      expect(pulls).toBeGreaterThan(Math.floor(watch.reads() / readsInPull));
    });
  }
}
