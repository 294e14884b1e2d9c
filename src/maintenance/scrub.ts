import { randomBytes } from "node:crypto";
import type { BlobStore } from "../core/blob-store.js";
import { type Clock, systemClock } from "../core/clock.js";
import { compareAndSet, conflicted } from "../core/compare-and-set.js";
import { algorithmOf, type Digest, Hasher, parseDigest } from "../core/digest.js";
import { errorText, isRegistryError, RegistryError } from "../core/errors.js";
import { type EventSink, noEvents, type RuntimeOptions, safeSink } from "../core/events.js";
import type { MetadataStore, RecordItem, Storage } from "../core/metadata-store.js";
import { allPages } from "../core/page.js";
import { recordKey } from "../core/records.js";
import { type Size, toBytes } from "../core/units.js";
import { endedBy } from "../local/ended-by.js";
import { recordPages } from "../local/every-record.js";
import { readoptBlob, readoptFromQuarantine } from "../local/quarantine.js";
import { chunksAt, ReadFailure, type StoredBytesOptions } from "../local/stored-bytes.js";
import { BoundedList } from "./bounded-list.js";
import { DigestCounts } from "./digest-counts.js";
import { checkConcurrency } from "./in-parallel.js";
import { type BlobProvider, LostBlobs, type ReferencingRepository } from "./lost-blobs.js";
import { RateLimiter } from "./rate-limiter.js";

export interface ScrubOptions extends RuntimeOptions {
  /** Ends it, with the signal's reason. What was found and done stays; the last progress says where to go on. */
  readonly signal?: AbortSignal;
  /** Called after every blob, and every 64 MiB in between. */
  readonly progress?: (progress: ScrubProgress) => void;
  /** Goes on behind this digest, as progress gave it. */
  readonly after?: string;
  /**
   * How many bytes are read a second, by all reads together. Default: "32MiB", about a quarter of what a single hard disk reads, so that pulls are hardly slower;
   * 1 TiB then takes nine hours, a night.
   */
  readonly rate?: Size;
  /** How many blobs are read at a time. Default: 1; more help only where each read waits for a network. */
  readonly concurrency?: number;
  /** Only looks: nothing is taken out of use or restored. Default: false. */
  readonly dryRun?: boolean;
  /**
   * Aggregates and caches over this storage through which lost blobs may be fetched, for the repositories that refer to them and under the rules of a pull.
   * Default: none; the next push restores them, and for a cache the next pull.
   */
  readonly heal?: readonly BlobProvider[];
  /**
   * The part of all blobs, from 0 to 1, that may be missing. When more are, and ten or more, the scrub ends before it changes anything: then the store is not wholly
   * there, as while a backup is copied back. To find out, it first lists what is stored. 1: it does not look. Default: 0.05, since a disk that fails loses far less,
   * and what is being copied back lacks far more.
   */
  readonly maxMissing?: number;
  /** How many of each list are kept; more are only counted. Default: 1,000. */
  readonly limit?: number;
}

/** A stored blob that is not what it should be. */
export interface ScrubFinding {
  readonly digest: Digest;
  readonly location: string;
  readonly size: number;
  readonly why: string;
}

/** A blob that repositories refer to and whose bytes are out of use. */
export interface ScrubLoss {
  readonly digest: Digest;
  readonly size: number;
  /** Ten at most; `omitted` counts the others. */
  readonly repositories: readonly ReferencingRepository[];
  readonly omitted: number;
  /** Why it could not be restored. */
  readonly why: string;
}

export interface ScrubReport {
  /** Blobs that were looked at. */
  readonly checked: number;
  /** Bytes read. Doubtful blobs are read twice. */
  readonly bytes: number;
  /** Two reads gave other bytes, too few or too many: now in quarantine. */
  readonly corrupt: readonly ScrubFinding[];
  /** Nothing is at their location. */
  readonly missing: readonly ScrubFinding[];
  /** They could not be read, which proves nothing: they are left as they are. `twice`: nor at once again, as with a disk that fails. */
  readonly unreadable: readonly (ScrubFinding & { readonly twice: boolean })[];
  /** Blobs that an earlier scrub had taken out of use, and whose bytes are right and at their location now: they are in use again. */
  readonly readopted: number;
  /** Blobs that were fetched again, those included that an earlier scrub could not restore. */
  readonly healed: number;
  /** Bytes received for that. */
  readonly received: number;
  /** Corrupt and missing ones that a repository refers to and that could not be restored. */
  readonly lost: readonly ScrubLoss[];
  /** Entries of the lists beyond `limit`. */
  readonly omitted: number;
}

export interface ScrubProgress extends ScrubReport {
  /** Blobs that were compared with a list of what is stored, before any was read. */
  readonly located: number;
  /** The last digest up to which all are done; absent until there is one. */
  readonly after?: string;
}

/**
 * Re-hashes every blob of a storage, slowly. Bytes that two reads find to be wrong are taken out of use and kept in quarantine; the blob is then absent for
 * every repository that refers to it, until it is pushed again or restored. May run beside everything else, in several processes too.
 *
 * @throws the signal's reason; RegistryError UNAVAILABLE when more blobs are missing than `maxMissing` permits, DIGEST_INVALID when `after` is no digest, UNKNOWN when `rate` is nothing or
 *   `concurrency` no whole number from 1.
 *
 * @example
 * ```ts
 * import { scrub } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const { checked, corrupt, missing, lost } = await scrub(memoryStorage(), { rate: "50MiB" });
 * for (const { digest, location, why } of [...corrupt, ...missing]) console.log(digest, location, why);
 * for (const { digest, repositories } of lost) console.log("push again:", digest, repositories[0]?.repository);
 * console.log(`${checked} blobs were read`);
 * ```
 */
export async function scrub(whole: Storage, options: ScrubOptions = {}): Promise<ScrubReport> {
  const { signal, after, concurrency = 1 } = options;
  const rate = toBytes(options.rate ?? "32MiB");
  checkConcurrency(concurrency);
  const { maxMissing = 0 } = options;
  if (!(maxMissing >= 0 && maxMissing <= 1))
    throw new RegistryError("UNKNOWN", "maxMissing must be a number from 0 to 1: a part of all blobs");
  if (rate === 0) throw new RegistryError("UNKNOWN", "a scrub of no bytes a second never ends: give a larger rate");
  const stopping = new AbortController();
  const ending = signal ? AbortSignal.any([signal, stopping.signal]) : stopping.signal;
  const storage = { blobs: whole.blobs, metadata: endedBy(whole.metadata, ending) };
  const run = new ScrubRun(storage, options, rate, ending);
  const running: { readonly digest: Digest; readonly done: Promise<void> }[] = [];
  // In order, so that everything up to the digest that is reported is done.
  const next = async () => {
    const first = running.shift();
    await first?.done;
    if (first) run.passed(first.digest);
  };
  try {
    signal?.throwIfAborted();
    await run.checkPresence();
    await run.restoreEarlier();
    for await (const blob of storedBlobs(storage.metadata, after === undefined ? undefined : parseDigest(after))) {
      signal?.throwIfAborted();
      if (running.length >= concurrency) await next();
      const done = run.look(blob);
      // It is awaited in its turn, which may be long after; the others end now.
      done.catch((error) => stopping.abort(error));
      running.push({ digest: blob.digest, done });
    }
    while (running.length > 0) await next();
    return run.report();
  } finally {
    stopping.abort();
    await Promise.allSettled(running.map(({ done }) => done));
  }
}

/** Bytes between two reports of progress while no blob is done. */
const reportEvery = 64 * 1024 * 1024;
/**
 * The part of all blobs that may be missing in a store that is there. Disks lose a sector or a folder; a restore that has not ended, or another volume, lacks much
 * more.
 */
const usualShare = 0.05;
/** So few are taken for lost whatever their share: a store of three blobs is scrubbed, too. */
const fewMissing = 10;
/** Locations in memory at a time: as hashes, some 45 MB. */
const comparedAtOnce = 1_000_000;
/** Locations between two reports of progress while they are listed. */
const listedPerReport = 10_000;
/** How often a blob is examined whose location is another one each time: somebody else is restoring it. */
const looks = 3;

/**
 * One scrub. Each blob is looked at by itself: its bytes are read and hashed ({@link examineBytes}); wrong or missing ones are taken out of use ({@link takeOut}); then
 * other bytes of it are looked for, in quarantine and through aggregates and caches ({@link LostBlobs}).
 */
class ScrubRun {
  readonly #storage: Storage;
  readonly #o: ScrubOptions;
  readonly #signal: AbortSignal;
  readonly #clock: Clock;
  readonly #events: EventSink;
  readonly #rateLimiter: RateLimiter;
  readonly #lostBlobs: LostBlobs;
  readonly #counts = { checked: 0, bytes: 0, readopted: 0, healed: 0, received: 0 };
  readonly #corrupt: BoundedList<ScrubFinding>;
  readonly #missing: BoundedList<ScrubFinding>;
  readonly #unreadable: BoundedList<ScrubFinding & { twice: boolean }>;
  readonly #lost: BoundedList<ScrubLoss>;
  #after: string | undefined;
  #unreported = 0;
  #located = 0;
  /** How many more may be found missing and taken out of use. */
  #mayTake = Number.POSITIVE_INFINITY;

  constructor(storage: Storage, options: ScrubOptions, rate: number, signal: AbortSignal) {
    this.#storage = storage;
    this.#o = options;
    this.#signal = signal;
    this.#clock = options.clock ?? systemClock;
    this.#events = safeSink(options.events ?? noEvents);
    this.#rateLimiter = new RateLimiter(this.#clock, rate);
    this.#after = options.after;
    const { limit = 1000 } = options;
    this.#corrupt = new BoundedList(limit);
    this.#missing = new BoundedList(limit);
    this.#unreadable = new BoundedList(limit);
    this.#lost = new BoundedList(limit);
    const received = (bytes: number) => {
      this.#counts.received += bytes;
    };
    this.#lostBlobs = new LostBlobs({ metadata: storage.metadata, providers: options.heal ?? [], signal, received });
  }

  report(): ScrubReport {
    const [corrupt, missing, unreadable, lost] = [this.#corrupt, this.#missing, this.#unreadable, this.#lost];
    return {
      ...this.#counts,
      corrupt: [...corrupt.kept],
      missing: [...missing.kept],
      unreadable: [...unreadable.kept],
      lost: [...lost.kept],
      omitted: corrupt.omitted + missing.omitted + unreadable.omitted + lost.omitted,
    };
  }

  /** All blobs up to this one are done. */
  passed(digest: Digest): void {
    this.#after = digest;
    this.#reportProgress();
  }

  async look(recorded: StoredBlob): Promise<void> {
    let blob = recorded;
    for (let look = 0; look < looks; look++) {
      const verdict = await this.#examine(blob);
      if (verdict.kind === "whole") break;
      const now = await this.#storage.metadata.get(recordKey.blob(blob.digest));
      if (!now) return;
      if (now.value.location === blob.location && (await this.#conclude(blob, verdict))) break;
      blob = { ...now.value, digest: blob.digest };
    }
    this.#counts.checked++;
  }

  /**
   * Compares what is recorded with what is stored before anything is taken out of use: where much is not there, it is the store that is not whole, as while a backup is
   * copied back or with the wrong volume mounted.
   * @throws RegistryError UNAVAILABLE when more is missing than `maxMissing` permits.
   */
  async checkPresence(): Promise<void> {
    const { maxMissing = usualShare, dryRun = false } = this.#o;
    if (dryRun || maxMissing >= 1) return;
    let missing = 0;
    let compared = new DigestCounts();
    // The records come first: what is stored later is recorded later.
    for await (const page of recordPages(this.#storage.metadata, "blob", [])) {
      this.#signal.throwIfAborted();
      for (const { value } of page) compared.add(value.location);
      this.#located += page.length;
      if (compared.size < comparedAtOnce) continue;
      missing += await this.#notStored(compared);
      compared = new DigestCounts();
    }
    if (compared.size > 0) missing += await this.#notStored(compared);
    this.#mayTake = Math.max(fewMissing - 1, Math.floor(maxMissing * this.#located));
    if (missing > this.#mayTake) throw this.#notWhole(`${missing} of ${this.#located} blobs are missing`, "nothing was changed");
  }

  #notWhole(what: string, done: string): RegistryError {
    return new RegistryError(
      "UNAVAILABLE",
      `${what}, which is more than usual (maxMissing: ${this.#o.maxMissing ?? usualShare}): ${done}. ` +
        "Is the volume or bucket the right one, and there as a whole? While a backup is copied back, wait for its end and scrub then. " +
        "If these blobs are lost for good, scrub with maxMissing: 1.",
    );
  }

  async #notStored(recorded: DigestCounts): Promise<number> {
    let listed = 0;
    for await (const { location } of allPages((page) => this.#storage.blobs.list(page))) {
      this.#signal.throwIfAborted();
      recorded.delete(location);
      if (++listed % listedPerReport === 0) this.#reportProgress();
    }
    if (recorded.size === 0) return 0;
    // Others were evicted or collected meanwhile, with their records.
    let missing = 0;
    for await (const page of recordPages(this.#storage.metadata, "blob", [])) {
      this.#signal.throwIfAborted();
      for (const { value } of page) missing += Math.min(1, recorded.count(value.location));
    }
    return missing;
  }

  /**
   * What earlier scrubs took out of use, whose records are gone, so that the walk does not come by them: bytes that are right now are taken into use again, others
   * are restored.
   */
  async restoreEarlier(): Promise<void> {
    const { metadata } = this.#storage;
    if (this.#o.dryRun) return;
    let last: Digest | undefined;
    for await (const page of recordPages(metadata, "quarantine", [])) {
      for (const { key } of page) {
        const digest = parseDigest(key.parts[0] ?? "");
        const [, location = ""] = key.parts;
        if ((await readoptBlob(this.#withClock, { digest, location }, this.#readOptions)) === "readopted") this.#counts.readopted++;
      }
      for (const { key, value } of this.#o.heal?.length ? page : []) {
        const digest = parseDigest(key.parts[0] ?? "");
        // Several places of one blob follow each other.
        if (digest === last) continue;
        last = digest;
        if (!(await metadata.get(recordKey.blob(digest)))) await this.#restore(digest, value.size);
      }
    }
  }

  get #withClock(): Storage & { readonly clock: Clock } {
    return { ...this.#storage, clock: this.#clock };
  }

  get #readOptions(): StoredBytesOptions {
    const read = async (bytes: number) => {
      this.#read(bytes);
      await this.#rateLimiter.spend(bytes, this.#signal);
    };
    return { signal: this.#signal, read };
  }

  async #examine(blob: StoredBlob): Promise<ByteVerdict> {
    const read = (bytes: number) => this.#read(bytes);
    const o = { blobs: this.#storage.blobs, rateLimiter: this.#rateLimiter, signal: this.#signal, read };
    const verdict = await examineBytes(blob, o);
    if (verdict.kind !== "missing") return verdict;
    for (const other of await someBlobs(this.#storage.metadata))
      if (other.digest !== blob.digest && (await isReadable(other, o))) return verdict;
    // A volume that is not mounted is an empty folder, and what it lacks is not lost.
    return {
      kind: "unreadable",
      why: `${verdict.why}, nor any other blob: is the volume or bucket the right one, and there?`,
      twice: false,
    };
  }

  #read(bytes: number): void {
    this.#counts.bytes += bytes;
    this.#unreported += bytes;
    if (this.#unreported >= reportEvery) this.#reportProgress();
  }

  /** @returns whether the verdict is about what is in use. */
  async #conclude(blob: StoredBlob, verdict: Exclude<ByteVerdict, { kind: "whole" }>): Promise<boolean> {
    const { digest, location, size } = blob;
    const finding = { digest, location, size, why: verdict.why };
    if (verdict.kind === "unreadable") {
      this.#unreadable.add({ ...finding, twice: verdict.twice });
      return true;
    }
    const { dryRun = false } = this.#o;
    const { kind: what, why } = verdict;
    if (!dryRun && !(await this.#takeOut(blob, verdict))) return false;
    (what === "corrupt" ? this.#corrupt : this.#missing).add(finding);
    this.#events.emit("damage", { time: this.#clock.now(), digest, location, size, what, why });
    if (dryRun) return true;
    // What was stored in its place before, or what a collection found.
    if (await readoptFromQuarantine(this.#withClock, digest, { ...this.#readOptions, except: location })) this.#counts.readopted++;
    else await this.#restore(digest, size);
    return true;
  }

  async #takeOut(blob: StoredBlob, verdict: Extract<ByteVerdict, { kind: "corrupt" | "missing" }>): Promise<boolean> {
    // Taken at once: several may be looked at the same time.
    if (verdict.kind === "missing" && --this.#mayTake < 0)
      throw this.#notWhole("blobs went missing while they were scrubbed", "no more are taken out of use");
    return takeOut(this.#storage.metadata, this.#clock, blob, verdict);
  }

  async #restore(digest: Digest, size: number): Promise<void> {
    const outcome = await this.#lostBlobs.restore(digest, size);
    if (outcome.kind === "restored") this.#counts.healed++;
    else if (outcome.kind === "lost") {
      const { repositories, omitted, why } = outcome;
      this.#lost.add({ digest, size, repositories, omitted, why });
    }
  }

  #reportProgress(): void {
    this.#unreported = 0;
    this.#o.progress?.({ ...this.report(), located: this.#located, ...(this.#after !== undefined && { after: this.#after }) });
  }
}

/** Where a record says that a blob is. */
interface StoredBlob {
  readonly digest: Digest;
  readonly location: string;
  readonly size: number;
}

/** In order of their digests, as their records are when their page is read. */
async function* storedBlobs(metadata: MetadataStore, after: Digest | undefined): AsyncGenerator<StoredBlob> {
  for await (const page of recordPages(metadata, "blob", [], after)) yield* page.map(storedBlob);
}

function storedBlob({ key, value }: RecordItem<"blob">): StoredBlob {
  return { ...value, digest: parseDigest(key.parts[0] ?? "") };
}

/** A few from anywhere, and from the beginning where there are no more. */
async function someBlobs(metadata: MetadataStore): Promise<StoredBlob[]> {
  const after = `sha256:${randomBytes(8).toString("hex")}`;
  const range = { kind: "blob", under: [], limit: 20 } as const;
  return [...(await metadata.page({ ...range, after })), ...(await metadata.page(range))].map(storedBlob);
}

/** What was found out about stored bytes. */
type ByteVerdict =
  | { readonly kind: "whole" }
  /** Other bytes, too few or too many. */
  | { readonly kind: "corrupt"; readonly why: string }
  /** There is nothing at the location. */
  | { readonly kind: "missing"; readonly why: string }
  /** They could not be read, which says nothing about them. */
  | { readonly kind: "unreadable"; readonly why: string; readonly twice: boolean };

interface ReadOptions {
  readonly blobs: BlobStore;
  readonly rateLimiter: RateLimiter;
  readonly signal: AbortSignal;
  /** Called with the size of every chunk. */
  read(bytes: number): void;
}

/**
 * Reads and hashes a blob, a second time where the first was not right: memory and networks make mistakes too, and only what two reads agree on is held against
 * the stored bytes.
 * @throws the signal's reason, and what `read` throws.
 */
async function examineBytes(blob: StoredBlob, o: ReadOptions): Promise<ByteVerdict> {
  const first = await readOnce(blob, o);
  if (first.kind === "whole") return first;
  const second = await readOnce(blob, o);
  if (second.kind === first.kind) return second.kind === "unreadable" ? { ...second, twice: true } : second;
  // What could not be read, and then could, is whole. Bytes that are now right and now wrong are not to be relied on.
  if (second.kind === "whole" && first.kind === "unreadable") return second;
  const then = second.kind === "whole" ? "its bytes are right" : second.why;
  return { kind: "unreadable", why: `two reads do not agree: ${first.why}; then ${then}`, twice: false };
}

/** Whether the beginning of a blob can be read: a sign that the store is the right one, and there. */
async function isReadable({ location, size }: StoredBlob, { blobs, signal }: ReadOptions): Promise<boolean> {
  try {
    for await (const _ of chunksAt(blobs, location, signal, size === 0 ? {} : { range: { start: 0, end: 0 } })) break;
    return true;
  } catch {
    signal.throwIfAborted();
    return false;
  }
}

async function readOnce({ digest, location, size }: StoredBlob, { blobs, rateLimiter, signal, read }: ReadOptions): Promise<ByteVerdict> {
  const hasher = new Hasher(algorithmOf(digest));
  try {
    for await (const chunk of chunksAt(blobs, location, signal)) {
      hasher.update(chunk);
      read(chunk.byteLength);
      if (hasher.size > size) return { kind: "corrupt", why: `there are more than its ${size} bytes` };
      await rateLimiter.spend(chunk.byteLength, signal);
    }
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof ReadFailure)) throw error;
    const { cause } = error;
    if (isRegistryError(cause) && cause.code === "BLOB_UNKNOWN") return { kind: "missing", why: cause.message };
    return { kind: "unreadable", why: errorText(cause), twice: false };
  }
  if (hasher.size < size) return { kind: "corrupt", why: `there are ${hasher.size} of its ${size} bytes` };
  const actual = hasher.digest();
  return actual === digest ? { kind: "whole" } : { kind: "corrupt", why: `its bytes are those of ${actual}` };
}

/**
 * Takes the bytes at a location out of use, in one commit: the blob is absent for every repository that refers to it. The blob references stay, so that the next
 * push restores it for all of them; a cache asks its source with the next pull.
 *
 * The location stays on record, in quarantine: bytes that come back there, as when a backup is restored, are found by the next scrub, and garbage collection does
 * not take them for garbage.
 *
 * @param verdict.why what is wrong.
 * @returns whether they were in use still. Somebody may have restored, evicted or taken out the blob meanwhile.
 */
async function takeOut(
  metadata: MetadataStore,
  clock: Clock,
  { digest, location }: { readonly digest: Digest; readonly location: string },
  { kind, why }: { readonly kind: "corrupt" | "missing"; readonly why: string },
): Promise<boolean> {
  const key = recordKey.blob(digest);
  return compareAndSet(digest, async () => {
    const blob = await metadata.get(key);
    // A location is never used again, so what was found out about it holds whatever else the record says.
    if (blob?.value.location !== location) return false;
    const { size } = blob.value;
    const kept = { size, why, at: clock.now(), ...(kind === "missing" && { missing: true as const }) };
    const changes = [{ remove: key }, { put: recordKey.quarantine(digest, location), value: kept }];
    return (await metadata.commit([{ key, is: "version", version: blob.version }], changes)) || conflicted;
  });
}
