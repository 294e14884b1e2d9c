import { randomUUID } from "node:crypto";
import { opensWithin } from "../../aggregate/members.js";
import { useGranularity } from "../../core/blob-reference.js";
import { type Clock, pause, systemClock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import { noEvents, type RuntimeOptions, safeSink } from "../../core/events.js";
import type { MetadataStore, Storage } from "../../core/metadata-store.js";
import { type Duration, toMilliseconds } from "../../core/units.js";
import { endedBy } from "../../local/ended-by.js";
import { DigestCounts } from "../digest-counts.js";

/** In this order. `expired`: quarantine, leases and distrust. */
export const phases = ["blobReferences", "blobs", "uploads", "expired", "locations"] as const;
export type CollectGarbagePhase = (typeof phases)[number];

export interface CollectGarbageOptions extends RuntimeOptions {
  /** What was written, or said to be there, within this time is left alone. At least two hours. Default: "24h". */
  readonly grace?: Duration;
  /** How long bytes that were found to be others than their digest says are kept. Default: "30d". */
  readonly quarantineFor?: Duration;
  /** Changes nothing, and reports what would go. Default: false. */
  readonly dryRun?: boolean;
  /** Ends it, with the signal's reason. What was removed is gone; the last progress says where to go on. */
  readonly signal?: AbortSignal;
  /** Called after every part of the work. */
  readonly progress?: (progress: CollectGarbageProgress) => void;
  /** Goes on behind this place, as progress gave it. A dry run that goes on does not know which blob references it found before, so it reports fewer blobs. */
  readonly after?: string;
  /** How many of `removed` are kept; more are only counted. Default: 1,000. */
  readonly limit?: number;
}

/** Something that went, or would go. */
export interface CollectedItem {
  readonly what: "blobReference" | "blob" | "upload" | "staged" | "location" | "quarantined";
  /** The name of the local registry or cache. */
  readonly registry?: string;
  readonly repository?: string;
  readonly digest?: string;
  /** Where the bytes were, or the upload's id. */
  readonly place?: string;
  /** Bytes. */
  readonly size?: number;
  readonly why: string;
}

export interface CollectGarbageReport {
  readonly dryRun: boolean;
  /** Blob references of repositories. */
  readonly blobReferences: { readonly checked: number; readonly removed: number };
  /** Blobs that no repository refers to any more. */
  readonly blobs: { readonly checked: number; readonly removed: number; readonly bytes: number };
  /** Upload sessions that had expired. */
  readonly uploads: { readonly checked: number; readonly ended: number };
  /** What was on its way in and belongs to no session. */
  readonly staged: { readonly checked: number; readonly discarded: number };
  readonly quarantined: { readonly checked: number; readonly removed: number; readonly bytes: number };
  readonly leases: { readonly checked: number; readonly removed: number };
  /** Digests of which a member of an aggregate stated what a manifest refuted. */
  readonly distrusted: { readonly checked: number; readonly removed: number };
  /** Committed bytes that no record names. */
  readonly locations: { readonly checked: number; readonly deleted: number; readonly bytes: number };
  /** Bytes of all of these. */
  readonly bytes: number;
  /** Repositories whose blob references were left as they are, since a manifest cannot be read. There is a `fault` event for each. */
  readonly skipped: number;
  /** False where a dry run found more blob references than it can remember: blobs, and bytes, are then no fewer than it says. */
  readonly exact: boolean;
  /** What went, or in a dry run would go. */
  readonly removed: readonly CollectedItem[];
  /** Entries of `removed` beyond `limit`. */
  readonly omitted: number;
}

export interface CollectGarbageProgress extends CollectGarbageReport {
  /** What it is at. */
  readonly phase: CollectGarbagePhase;
  /** Pass it as `after` to go on from here. */
  readonly after: string;
}

/** Where a phase goes on: the parts of a key. */
export type ResumePlace = readonly string[];

function cursorOf(phase: CollectGarbagePhase, place: ResumePlace): string {
  return [phase, ...place].join(" ");
}

/** @throws RegistryError NAME_INVALID */
function parseCollectionCursor(text: string): { phase: CollectGarbagePhase; place: ResumePlace } {
  const [first, ...place] = text.split(" ");
  const phase = phases.find((name) => name === first);
  if (phase === undefined)
    throw new RegistryError("NAME_INVALID", `${JSON.stringify(text)} is no place to go on from: pass the "after" of a progress`);
  return { phase, place };
}

/** How many candidates are in memory at a time: some 20 MB. */
export const batchSize = 50_000;
/** A dry run remembers so many blobs whose blob references would be removed: some 45 MB. */
const remembered = 1_000_000;
/** Operations of a store at a time: what waits together may share a transaction, and hides the way to a database. */
const concurrency = 100;
/** Content that was answered may be opened so long after, and whoever reads it should be done with small blobs. */
const untilOpened = 2 * opensWithin;

type Counts = {
  -readonly [K in keyof CollectGarbageReport]: CollectGarbageReport[K] extends object
    ? { -readonly [C in keyof CollectGarbageReport[K]]: CollectGarbageReport[K][C] }
    : CollectGarbageReport[K];
};
type Counted = Omit<Counts, "dryRun" | "removed" | "omitted" | "exact">;

/** One run of garbage collection: what it works on, how far it is, and what it has found. Each phase is a function of it, in a file of its own. */
export class Collection {
  readonly blobs: Storage["blobs"];
  readonly metadata: MetadataStore;
  readonly storage: Storage;
  readonly clock: Clock;
  readonly dryRun: boolean;
  readonly signal: AbortSignal | undefined;
  /** Distinguishes this run from others at the same time. */
  readonly id = randomUUID();
  readonly start: { readonly phase: CollectGarbagePhase; readonly place: ResumePlace };
  readonly counts: Counted = {
    blobReferences: { checked: 0, removed: 0 },
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
  readonly #o: CollectGarbageOptions;
  readonly #grace: number;
  readonly #quarantineFor: number;
  readonly #list: CollectedItem[] = [];
  #omitted = 0;
  #phase: CollectGarbagePhase = "blobReferences";
  /** In a dry run: how many blob references to each blob would be removed. */
  readonly #removedReferences = new DigestCounts();
  #exact = true;
  readonly #skipped = new Set<string>();

  constructor(storage: Storage, options: CollectGarbageOptions) {
    const { grace = "24h", quarantineFor = "30d", dryRun = false, clock = systemClock, after } = options;
    this.metadata = endedBy(storage.metadata, options.signal);
    this.blobs = storage.blobs;
    this.storage = { blobs: this.blobs, metadata: this.metadata };
    this.clock = clock;
    this.dryRun = dryRun;
    this.start = after === undefined ? { phase: "blobReferences", place: [] } : parseCollectionCursor(after);
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

  enter(phase: CollectGarbagePhase): void {
    this.#phase = phase;
  }

  /** Reports progress: a part of the work is done, and need not be done again. */
  progress(place: ResumePlace): void {
    const progress: CollectGarbageProgress = { ...this.report(), phase: this.#phase, after: cursorOf(this.#phase, place) };
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

  note(collected: CollectedItem): void {
    if (this.#list.length < (this.#o.limit ?? 1000)) this.#list.push(collected);
    else this.#omitted++;
  }

  /** A manifest of the repository cannot be read, so it is not known what it refers to. */
  skip(registry: string, repository: string, why: string): void {
    const key = JSON.stringify([registry, repository]);
    if (this.#skipped.has(key)) return;
    this.#skipped.add(key);
    this.counts.skipped++;
    this.fault(
      registry,
      `the blob references of ${repository} are left alone, and so are all blobs that no repository refers to, since ${why}`,
    );
  }

  fault(registry: string, message: string): void {
    safeSink(this.#o.events ?? noEvents).emit("fault", { time: this.clock.now(), registry, message });
  }

  /** In a dry run: a blob reference to bytes here would be removed. */
  noteRemovedReference(digest: string): void {
    if (this.#removedReferences.size < remembered || this.#removedReferences.count(digest) > 0) this.#removedReferences.add(digest);
    else this.#exact = false;
  }

  removedReferences(digest: string): number {
    return this.#removedReferences.count(digest);
  }

  /** Waits until whoever was answered with content before has opened it. */
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

  report(): CollectGarbageReport {
    const copy: Counted = structuredClone(this.counts);
    return { ...copy, dryRun: this.dryRun, exact: this.#exact, removed: [...this.#list], omitted: this.#omitted };
  }
}
