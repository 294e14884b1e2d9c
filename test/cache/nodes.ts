import { type BlobContent, type CachedOptions, type CachedRegistry, cached, type Lookup, type Registry, type Storage } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { type Gate, gate } from "./scripted-source.js";

/** A process of several that share a storage. */
export interface Node {
  readonly hub: CachedRegistry;
  /** It never does anything again. What it had told the source to send is cut off. */
  kill(): void;
  /** It stands still, as a process that is swapped out, until `resume`. */
  pause(): void;
  resume(): void;
}

export interface NodesOptions extends Partial<Omit<CachedOptions, "storage">> {
  readonly storage?: (index: number) => Storage;
  /** How far each node's clock is ahead, in milliseconds. */
  readonly skews?: readonly number[];
}

/** Caches of one name over one storage, and the copies into it that run. */
export function nodesOf(source: Registry, count: number, { storage, skews = [], ...options }: NodesOptions = {}) {
  const clock = fakeClock();
  const shared = memoryStorage();
  const storages = Array.from({ length: count }, (_, index) => storage?.(index) ?? shared);
  const copies = { running: 0, most: 0, begun: 0 };
  const nodes = storages.map(({ blobs, metadata }, index): Node => {
    let stopped: Gate | undefined;
    let dead = false;
    const cuts = new Set<() => void>();
    const running = async () => {
      while (stopped) await stopped.passed;
    };
    const slowed = <T extends object>(of: T): T =>
      new Proxy(of, {
        get(target, property) {
          const value: unknown = Reflect.get(target, property, target);
          if (typeof value !== "function") return value;
          return async (...args: unknown[]) => {
            await running();
            const result = await value.apply(target, args);
            await running();
            return result;
          };
        },
      });
    const watched = (lookup: Lookup<BlobContent>): Lookup<BlobContent> => {
      if (lookup.kind !== "found" || lookup.value.content.kind !== "stream") return lookup;
      const { content } = lookup.value;
      const open = () => {
        const stream = content.open();
        copies.begun++;
        copies.most = Math.max(copies.most, ++copies.running);
        const cut = () => stream.destroy(new Error("killed"));
        cuts.add(cut);
        stream.once("close", () => {
          copies.running--;
          cuts.delete(cut);
        });
        return stream;
      };
      return { ...lookup, value: { ...lookup.value, content: { kind: "stream", open } } };
    };
    const its: Registry = {
      ...source,
      resolveBlob: async (...args) => {
        await running();
        return source.resolveBlob(...args);
      },
      getBlob: async (repository, digest, o) => {
        await running();
        const lookup = await source.getBlob(repository, digest, o);
        await running();
        // What passes the store by is verified by the source.
        return o?.verify === false ? watched(lookup) : lookup;
      },
    };
    const hub = cached(its, {
      name: "hub",
      ...options,
      storage: { blobs, metadata: slowed(metadata) },
      clock: {
        now: () => clock.now() + (skews[index] ?? 0),
        elapsed: () => clock.elapsed(),
        sleep: async (ms, signal) => {
          await clock.sleep(ms, signal);
          await running();
        },
      },
    });
    return {
      hub,
      kill() {
        dead = true;
        stopped = { passed: new Promise(() => {}), open: () => {} };
        for (const cut of cuts) cut();
      },
      pause() {
        stopped ??= gate();
      },
      resume() {
        if (dead) return;
        stopped?.open();
        stopped = undefined;
      },
    };
  });
  const leases = async () => (await (storages[0] ?? shared).metadata.page({ kind: "lease", under: ["fill", "hub"], limit: 9 })).length;
  return { nodes, clock, copies, leases, storage: storages[0] ?? shared };
}
