import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import type { Surroundings } from "../core/events.js";
import type { Storage } from "../core/metadata-store.js";
import { type Size, toBytes } from "../core/units.js";
import { endedBy } from "../local/ended-by.js";
import type { BlobClaim, Healer } from "./heal.js";
import { checkConcurrency } from "./in-parallel.js";
import { ScrubRun, storedBlobs } from "./scrub-run.js";

export interface ScrubOptions extends Surroundings {
  /** Ends it, with the signal's reason. What was found and done stays; what progress told last says where to go on. */
  readonly signal?: AbortSignal;
  /** Told after every blob, and every 64 MiB in between. */
  readonly progress?: (progress: ScrubProgress) => void;
  /** Goes on behind this digest, as progress told it. */
  readonly after?: string;
  /**
   * How many bytes are read a second, by all reads together. Default: "32MiB", about a quarter of what a single hard disk reads, so that pulls are hardly slower;
   * 1 TiB then takes nine hours, a night.
   */
  readonly rate?: Size;
  /** How many blobs are read at a time. Default: 1; more help only where each read waits for a network. */
  readonly concurrency?: number;
  /** Only looks: nothing is taken out of use or healed. Default: false. */
  readonly dryRun?: boolean;
  /**
   * Aggregates and caches over this storage through which lost blobs may be fetched, for the repositories that claim them and under the rules of a pull.
   * Default: none; the next push heals, and for a cache the next pull.
   */
  readonly heal?: readonly Healer[];
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

/** A blob that repositories claim and whose bytes are out of use. */
export interface ScrubLoss {
  readonly digest: Digest;
  readonly size: number;
  /** Ten at most; `omitted` counts the others. */
  readonly claims: readonly BlobClaim[];
  readonly omitted: number;
  /** Why it could not be healed. */
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
  /** Blobs brought back, those that an earlier scrub could not heal included. */
  readonly healed: number;
  /** Bytes received for that. */
  readonly received: number;
  /** Corrupt and missing ones that are claimed and could not be healed. */
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
 * every repository that claims it, until it is pushed again or healed from an origin. May run beside everything else, in several processes too.
 *
 * @throws the signal's reason; RegistryError UNAVAILABLE when more blobs are missing than `maxMissing` permits, DIGEST_INVALID when `after` is no digest, UNKNOWN when `rate` is nothing or
 *   `concurrency` no whole number from 1.
 *
 * @example
 * ```ts
 * import { scrub } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const { checked, corrupt, missing, lost } = await scrub(memoryStorage(), { rate: "50MiB" });
 * for (const { digest, location, why } of [...corrupt, ...missing]) console.log(digest, location, why);
 * for (const { digest, claims } of lost) console.log("push again:", digest, claims[0]?.repository);
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
  // In order, so that everything up to the digest that is told is done.
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
