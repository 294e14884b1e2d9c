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

/** Callers' parts of a cache that are open at a time; others open again when they are needed. */
const openParts = 100;
/** For the questions that were being answered from a part when it was pushed out. Milliseconds. */
const retirement = 60_000;

interface Open {
  readonly partition: CachePartition;
  /** Who asked last: the credentials that a caller carries expire, and the source is asked in the background too. */
  latest: Caller | undefined;
}

/** The parts of a cache that belong to callers, opened as they are needed. */
export class CallerPartitions {
  readonly #open: LRUCache<string, Open>;
  /** Pushed out, and still at work, by hash. A caller that comes back meanwhile joins what its part still does. */
  readonly #retiring = new Map<string, { readonly open: Open }>();
  readonly #closing = new AbortController();
  readonly #clock: Clock;
  readonly #make: (hash: string, call: CallOptions) => CachePartition;

  /** @param make the part of those whose hash this is. */
  constructor(clock: Clock, make: (hash: string, call: CallOptions) => CachePartition) {
    this.#clock = clock;
    this.#make = make;
    this.#open = new LRUCache({ max: openParts, dispose: (open, hash, reason) => void (reason === "evict" && this.#retire(hash, open)) });
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
      ...[...this.#retiring.values()].map(({ open }) => open.partition),
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
    const retired = this.#retiring.get(hash);
    if (!retired) return undefined;
    this.#retiring.delete(hash);
    this.#open.set(hash, retired.open);
    return retired.open;
  }

  /** Its records stay. Clients may still be reading what it brings. */
  async #retire(hash: string, open: Open): Promise<void> {
    const retired = { open };
    this.#retiring.set(hash, retired);
    const { partition } = open;
    try {
      do {
        await this.#clock.sleep(retirement, this.#closing.signal);
        if (this.#retiring.get(hash) !== retired) return;
      } while (partition.load.running > 0 || partition.load.queued > 0);
    } catch {
      return;
    }
    this.#retiring.delete(hash);
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
