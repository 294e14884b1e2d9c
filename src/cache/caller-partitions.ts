import { createHash } from "node:crypto";
import { LRUCache } from "lru-cache";
import type { Clock } from "../core/clock.js";
import type { Descriptor } from "../core/descriptor.js";
import type { Lookup } from "../core/lookup.js";
import type { Caller, CallOptions, Registry } from "../core/registry.js";
import type { Completeness } from "./completeness.js";
import type { Fills } from "./fill/fills.js";
import type { WarmOptions } from "./images.js";
import type { ViaOptions } from "./source-call.js";

/** How many callers' parts of a cache are open at a time; others open again when they are needed. */
const openParts = 100;
/** A part that makes way for others is closed after this time at the earliest, since calls may still be answered from it. Milliseconds. */
const drainTime = 60_000;

interface Open {
  readonly partition: CachePartition;
  /** The latest caller: the credentials that a caller carries expire, and the source is asked in the background too. */
  latest: Caller | undefined;
}

/**
 * The parts of a cache that belong to callers (the option `partition`), opened as they are needed. The least recently used one makes way where too many are open: it is
 * drained, and closed once it has no fills. Its records stay.
 */
export class CallerPartitions {
  readonly #open: LRUCache<string, Open>;
  /** By hash, the parts that are drained. A caller that comes back meanwhile joins what its part still does. */
  readonly #draining = new Map<string, { readonly open: Open }>();
  readonly #closing = new AbortController();
  readonly #clock: Clock;
  readonly #make: (hash: string, call: CallOptions) => CachePartition;

  /** @param make opens the part that has this hash. The source is given `call` with every question. */
  constructor(clock: Clock, make: (hash: string, call: CallOptions) => CachePartition) {
    this.#clock = clock;
    this.#make = make;
    this.#open = new LRUCache({ max: openParts, dispose: (open, hash, reason) => void (reason === "evict" && this.#drain(hash, open)) });
  }

  /** @param name what the host calls the part; it may be secret, and records are kept under a hash of it. */
  of(name: string, caller: Caller | undefined): CachePartition {
    const hash = createHash("sha256").update(name).digest("hex").slice(0, 32);
    const open = this.#open.get(hash) ?? this.#reopened(hash) ?? this.#opened(hash, caller);
    open.latest = caller;
    return open.partition;
  }

  get all(): CachePartition[] {
    return [
      ...[...this.#open.values()].map(({ partition }) => partition),
      ...[...this.#draining.values()].map(({ open }) => open.partition),
    ];
  }

  /** Milliseconds. */
  async close(deadline: number): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.all.map((partition) => partition.close(deadline)));
  }

  #opened(hash: string, caller: Caller | undefined): Open {
    const call: CallOptions = {
      get caller() {
        return open.latest;
      },
    };
    const open: Open = { partition: this.#make(hash, call), latest: caller };
    this.#open.set(hash, open);
    return open;
  }

  #reopened(hash: string): Open | undefined {
    const draining = this.#draining.get(hash);
    if (!draining) return undefined;
    this.#draining.delete(hash);
    this.#open.set(hash, draining.open);
    return draining.open;
  }

  /** Closes a part once it has no fills. Clients may still be reading what it brings. */
  async #drain(hash: string, open: Open): Promise<void> {
    const draining = { open };
    this.#draining.set(hash, draining);
    const { partition } = open;
    try {
      do {
        await this.#clock.sleep(drainTime, this.#closing.signal);
        if (this.#draining.get(hash) !== draining) return;
      } while (partition.load.running > 0 || partition.load.queued > 0);
    } catch {
      return;
    }
    this.#draining.delete(hash);
    await partition.close(0).catch(() => {});
  }
}

/** What one cache, or one caller's part of it, keeps: a registry and what can be asked about it. */
export interface CachePartition {
  readonly registry: Registry;
  completeness(repository: string, reference: string, platforms?: readonly string[], signal?: AbortSignal): Promise<Completeness>;
  warm(repository: string, reference: string, o?: WarmOptions & ViaOptions): Promise<Completeness>;
  refresh(repository: string, tag: string, o?: CallOptions): Promise<Lookup<Descriptor>>;
  bytes(): Promise<number>;
  readonly load: Fills["load"];
  /** Milliseconds. */
  close(deadline: number): Promise<void>;
}
