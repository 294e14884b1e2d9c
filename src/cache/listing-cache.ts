import type { LRUCache } from "lru-cache";
import { found, type Lookup } from "../core/lookup.js";
import type { Page, PageRequest } from "../core/page.js";
import type { CallOptions } from "../core/registry.js";
import { untilAborted } from "../core/until-aborted.js";
import { isLoop, isViaKnown } from "../core/via.js";
import type { Partition } from "../local/partition.js";
import type { NegativeCache } from "./negative-cache.js";
import { SingleFlight } from "./single-flight.js";
import { singleFlightKey } from "./source-call.js";

type FoundPage = Extract<Lookup<Page<unknown>>, { kind: "found" }>;

interface ListingCacheOptions {
  readonly partition: Partition;
  readonly pages: LRUCache<string, { readonly lookup: FoundPage; readonly at: number }>;
  readonly negatives: NegativeCache;
  /** Milliseconds. */
  readonly ttl: number;
}

/** Listings of a source, kept for the time to live of a tag. While the source cannot answer, the last listing serves, or what is stored here. */
export class ListingCache {
  readonly #o: ListingCacheOptions;
  readonly #asking = new SingleFlight<Page<unknown>>();

  constructor(options: ListingCacheOptions) {
    this.#o = options;
  }

  /**
   * @param name what is listed, with everything but the page that makes a difference.
   * @param here what is stored, for when the source never answered.
   */
  async page<T>(
    name: string,
    request: PageRequest,
    o: CallOptions | undefined,
    there: () => Promise<Lookup<Page<T>>>,
    here: () => Promise<Lookup<Page<T>>>,
  ): Promise<Lookup<Page<T>>> {
    const { partition, pages, negatives, ttl } = this.#o;
    const key = JSON.stringify([partition.name, name, request.after, request.limit]);
    // A listing that is not whole may be so only for questions that came this way: what a loop would have shown is missing.
    const kept = pages.get(singleFlightKey(key, o)) ?? pages.get(key);
    const age = kept ? partition.clock.elapsed() - kept.at : 0;
    if (kept && age < ttl) return { ...kept.lookup, served: { ...partition.served, cache: "hit", age, ttl: ttl - age } } as Lookup<Page<T>>;
    const theirs = negatives.get(key) ?? (await untilAborted(this.#ask(key, o, there), o?.signal));
    if (theirs.kind !== "unavailable" && theirs.kind !== "denied") return theirs as Lookup<Page<T>>;
    // A loop: nobody has it, or whoever asked. An older list says nothing of that.
    if (isLoop(theirs.error)) return theirs;
    const last = (kept?.lookup ?? (await here())) as Lookup<Page<T>>;
    // That nothing is stored here says nothing about the source.
    if (last.kind !== "found" || (!kept && last.value.items.length === 0)) return theirs;
    const what = kept ? "this listing may be outdated" : "this lists only what is stored here";
    const warnings = [`the source could not be asked, so ${what}: ${theirs.error.message}`];
    return found({ ...last.value, warnings }, { ...partition.served, cache: "stale", ...(kept && { age, ttl: ttl - age }) });
  }

  #ask<T>(key: string, o: CallOptions | undefined, there: () => Promise<Lookup<Page<T>>>): Promise<Lookup<Page<unknown>>> {
    return this.#asking.join(key, o, async () => {
      const { partition, pages, negatives } = this.#o;
      const lookup: Lookup<Page<unknown>> = negatives.note(key, await there());
      if (lookup.kind === "absent") pages.delete(key);
      if (lookup.kind !== "found") return lookup;
      const isWhole = !lookup.value.warnings?.length;
      if (isWhole) pages.delete(singleFlightKey(key, o));
      // A client could make up marks that hide a part of the listing from others.
      if (isWhole || isViaKnown(o)) pages.set(isWhole ? key : singleFlightKey(key, o), { lookup, at: partition.clock.elapsed() });
      return { ...lookup, served: { ...partition.served, cache: "miss" as const } };
    });
  }
}
