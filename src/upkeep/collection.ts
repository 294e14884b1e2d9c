import { randomUUID } from "node:crypto";
import { opensWithin } from "../aggregate/in-use.js";
import { type Clock, pause, systemClock } from "../core/clock.js";
import { RegistryError } from "../core/errors.js";
import { contained, noEvents } from "../core/events.js";
import { useGranularity } from "../core/last-use.js";
import type { MetadataStore, Storage } from "../core/metadata-store.js";
import { toMilliseconds } from "../core/units.js";
import { endedBy } from "../local/ended-by.js";
import {
  type Collected,
  type CollectOptions,
  type CollectPhase,
  type CollectProgress,
  type CollectReport,
  cursorOf,
  type Place,
  parseCursor,
} from "./collection-report.js";
import { Tally } from "./tally.js";

/** How many candidates are in memory at a time: some 20 MB. */
export const batchSize = 50_000;
/** A dry run remembers so many blobs whose claims would go: some 25 MB. */
const remembered = 1_000_000;
/** Operations of a store at a time: what waits together may share a transaction, and hides the way to a database. */
const concurrency = 100;
/** Content that was answered may be opened so long after, and whoever reads it should be done with small blobs. */
const untilOpened = 2 * opensWithin;

type Counts = {
  -readonly [K in keyof CollectReport]: CollectReport[K] extends object
    ? { -readonly [C in keyof CollectReport[K]]: CollectReport[K][C] }
    : CollectReport[K];
};
type Counted = Omit<Counts, "dryRun" | "removed" | "omitted" | "exact">;

/** One run: what it is about, how far it is, and what it has found. */
export class Collection {
  readonly blobs: Storage["blobs"];
  readonly metadata: MetadataStore;
  readonly storage: Storage;
  readonly clock: Clock;
  readonly dryRun: boolean;
  readonly signal: AbortSignal | undefined;
  /** Tells this run from others that collect at the same time. */
  readonly id = randomUUID();
  readonly start: { readonly phase: CollectPhase; readonly place: Place };
  readonly counts: Counted = {
    links: { checked: 0, removed: 0 },
    blobs: { checked: 0, removed: 0, bytes: 0 },
    uploads: { checked: 0, ended: 0 },
    staged: { checked: 0, discarded: 0 },
    quarantined: { checked: 0, removed: 0, bytes: 0 },
    leases: { checked: 0, removed: 0 },
    distrusted: { checked: 0, removed: 0 },
    locations: { checked: 0, deleted: 0, bytes: 0 },
    bytes: 0,
    skipped: 0,
  };
  readonly #o: CollectOptions;
  readonly #grace: number;
  readonly #quarantineFor: number;
  readonly #list: Collected[] = [];
  #omitted = 0;
  #phase: CollectPhase = "links";
  /** In a dry run: how many claims to each blob would go. */
  readonly #given = new Tally();
  #exact = true;
  readonly #skipped = new Set<string>();

  constructor(storage: Storage, options: CollectOptions) {
    const { grace = "24h", quarantineFor = "30d", dryRun = false, clock = systemClock, after } = options;
    this.metadata = endedBy(storage.metadata, options.signal);
    this.blobs = storage.blobs;
    this.storage = { blobs: this.blobs, metadata: this.metadata };
    this.clock = clock;
    this.dryRun = dryRun;
    this.start = after === undefined ? { phase: "links", place: [] } : parseCursor(after);
    this.signal = options.signal;
    this.#o = options;
    this.#grace = toMilliseconds(grace);
    this.#quarantineFor = toMilliseconds(quarantineFor);
    if (this.#grace < 2 * useGranularity) {
      throw new RegistryError(
        "UNKNOWN",
        `a grace of ${JSON.stringify(grace)} is too short: uses are recorded to the hour, so give at least "2h"`,
      );
    }
  }

  /** What is not younger is old enough to go. */
  get graceBegan(): number {
    return this.clock.now() - this.#grace;
  }

  get quarantineBegan(): number {
    return this.clock.now() - this.#quarantineFor;
  }

  enter(phase: CollectPhase): void {
    this.#phase = phase;
  }

  /** A part of the work is done, and need not be done again. */
  tell(place: Place): void {
    const progress: CollectProgress = { ...this.report(), phase: this.#phase, after: cursorOf(this.#phase, place) };
    this.#o.progress?.(progress);
    this.#o.signal?.throwIfAborted();
  }

  /**
   * Lets requests have their turn: with a database in this process, records come without one, and a walk over all of them would hold up everything else.
   * @throws the signal's reason.
   */
  async pause(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.#o.signal?.throwIfAborted();
  }

  note(collected: Collected): void {
    if (this.#list.length < (this.#o.limit ?? 1000)) this.#list.push(collected);
    else this.#omitted++;
  }

  /** A manifest of the repository cannot be read, so it is not known what it refers to. */
  skip(registry: string, repository: string, why: string): void {
    const key = JSON.stringify([registry, repository]);
    if (this.#skipped.has(key)) return;
    this.#skipped.add(key);
    this.counts.skipped++;
    this.fault(registry, `the claims of ${repository} are left alone, and so are all blobs that nobody claims, since ${why}`);
  }

  fault(registry: string, message: string): void {
    contained(this.#o.events ?? noEvents).emit("fault", { time: this.clock.now(), registry, message });
  }

  /** In a dry run: a claim to bytes here would go. */
  given(digest: string): void {
    if (this.#given.size < remembered || this.#given.count(digest) > 0) this.#given.add(digest);
    else this.#exact = false;
  }

  givenClaims(digest: string): number {
    return this.#given.count(digest);
  }

  /** Waits until whoever was told of content before has opened it. */
  async untilOpened(): Promise<void> {
    await pause(this.clock, untilOpened, this.#o.signal);
  }

  /** Some at a time, in order. */
  async each<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
    let group: T[] = [];
    const run = async () => {
      await this.pause();
      await Promise.all(group.map(work));
      group = [];
    };
    for (const item of items) if (group.push(item) === concurrency) await run();
    if (group.length > 0) await run();
  }

  report(): CollectReport {
    const copy: Counted = structuredClone(this.counts);
    return { ...copy, dryRun: this.dryRun, exact: this.#exact, removed: [...this.#list], omitted: this.#omitted };
  }
}
