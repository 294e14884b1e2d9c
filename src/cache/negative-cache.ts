import type { LRUCache } from "lru-cache";
import type { Lookup } from "../core/lookup.js";
import type { Partition } from "../local/partition.js";
import type { NegativeAnswer } from "./memory.js";

/** Remembers for seconds that the source has nothing, or refuses. That the source could not be asked is no answer, and is not remembered. */
export class NegativeCache {
  readonly #in: Partition;
  readonly #remembered: LRUCache<string, NegativeAnswer>;
  readonly #timeToLive: number;

  /** @param timeToLive milliseconds. */
  constructor(partition: Partition, remembered: LRUCache<string, NegativeAnswer>, timeToLive: number) {
    this.#in = partition;
    this.#remembered = remembered;
    this.#timeToLive = timeToLive;
  }

  get(key: string): NegativeAnswer["lookup"] | undefined {
    const negative = this.#remembered.get(`${this.#in.name} ${key}`);
    return negative && negative.until > this.#in.clock.elapsed() ? negative.lookup : undefined;
  }

  /** Takes note of what the source has just answered, and answers it too. */
  note<T>(key: string, lookup: Lookup<T>): Lookup<T> {
    const own = `${this.#in.name} ${key}`;
    if (lookup.kind === "absent" || lookup.kind === "denied")
      this.#remembered.set(own, { lookup, until: this.#in.clock.elapsed() + this.#timeToLive });
    else this.#remembered.delete(own);
    return lookup;
  }
}
