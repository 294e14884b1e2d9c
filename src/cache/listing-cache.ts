import { LRUCache } from "lru-cache";
import { found, type Lookup } from "../core/lookup.js";
import type { Page, PageRequest } from "../core/page.js";
import { untilAborted } from "../core/until-aborted.js";
import type { Partition } from "../local/partition.js";

export interface ListingCacheOptions {
  readonly partition: Partition;
  /** Milliseconds. */
  readonly ttl: number;
}

/** Pages of up to 1,000 names each. */
const rememberedPages = 500;

/** Listings of a source, kept for the time to live of a tag; while the source cannot answer the last one, or what is stored here. */
export class ListingCache {
  readonly #o: ListingCacheOptions;
  readonly #pages = new LRUCache<string, { lookup: Extract<Lookup<Page<unknown>>, { kind: "found" }>; at: number }>({
    max: rememberedPages,
  });
  readonly #flights = new Map<string, Promise<Lookup<Page<unknown>>>>();

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
    signal: AbortSignal | undefined,
    there: () => Promise<Lookup<Page<T>>>,
    here: () => Promise<Lookup<Page<T>>>,
  ): Promise<Lookup<Page<T>>> {
    const { partition, ttl } = this.#o;
    const key = JSON.stringify([name, request.after, request.limit]);
    const kept = this.#pages.get(key);
    const age = kept ? partition.clock.now() - kept.at : 0;
    if (kept && age < ttl) return { ...kept.lookup, served: { ...partition.served, cache: "hit", age, ttl: ttl - age } } as Lookup<Page<T>>;
    const theirs = await untilAborted(this.#flight(key, there), signal);
    if (theirs.kind !== "unavailable" && theirs.kind !== "denied") return theirs;
    const last = (kept?.lookup ?? (await here())) as Lookup<Page<T>>;
    if (last.kind !== "found" || last.value.items.length === 0) return theirs;
    const what = kept ? "this listing may be outdated" : "this lists only what is stored here";
    const warnings = [`the source could not be asked, so ${what}: ${theirs.error.message}`];
    return found({ ...last.value, warnings }, { ...partition.served, cache: "stale", ...(kept && { age, ttl: ttl - age }) });
  }

  #flight<T>(key: string, ask: () => Promise<Lookup<Page<T>>>): Promise<Lookup<Page<T>>> {
    const running = this.#flights.get(key) as Promise<Lookup<Page<T>>> | undefined;
    if (running) return running;
    const flight = ask()
      .then((lookup) => {
        if (lookup.kind === "found") this.#pages.set(key, { lookup, at: this.#o.partition.clock.now() });
        return lookup;
      })
      .finally(() => this.#flights.delete(key));
    this.#flights.set(key, flight);
    return flight;
  }
}
