import { systemClock } from "../../core/clock.js";
import type { Storage } from "../../core/metadata-store.js";
import { agreedClock } from "./agreed-clock.js";
import { collectBlobReferences } from "./blob-references.js";
import { collectBlobs } from "./blobs.js";
import { type CollectGarbageOptions, type CollectGarbageReport, Collection, phases } from "./collection.js";
import { collectExpired } from "./expired.js";
import { collectLocations } from "./locations.js";
import { collectUploads } from "./uploads.js";

const steps = {
  blobReferences: collectBlobReferences,
  blobs: collectBlobs,
  uploads: collectUploads,
  expired: collectExpired,
  locations: collectLocations,
} as const;

/**
 * Removes what nothing refers to from a storage, for every registry in it, while they are in use in whichever processes: blob references that no manifest of
 * their repository refers to, blobs without blob references, uploads that nobody goes on with, and bytes that no record names. Manifests and tags are never removed.
 *
 * What was answered to be there within half the grace, by HEAD, upload or mount, stays. What a cache may evict is left to it. Several collections may run at a
 * time, and one that was killed can be made again; it goes on where `after` says, or from the beginning. Where blobs go it waits a minute for readers.
 *
 * What is old is said by the clock of the metadata store where it has one (PostgreSQL), else by that of this machine. It has to agree with the times of files or objects.
 *
 * @throws RegistryError PRECONDITION_FAILED when these clocks are more than five minutes apart, UNKNOWN for a grace below two hours, NAME_INVALID for a malformed `after`; the signal's reason; what the stores throw.
 *
 * @example
 * ```ts
 * import { collectGarbage } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const { blobs, removed } = await collectGarbage(memoryStorage(), { dryRun: true });
 * console.log(`${blobs.removed} blobs of ${blobs.bytes} bytes would go`);
 * for (const { what, repository, digest, why } of removed) console.log(what, repository, digest, why);
 * ```
 */
export async function collectGarbage(storage: Storage, options: CollectGarbageOptions = {}): Promise<CollectGarbageReport> {
  const clock = await agreedClock(storage, options.clock ?? systemClock);
  const collection = new Collection(storage, { ...options, clock });
  const { phase: first, place } = collection.start;
  for (const phase of phases.slice(phases.indexOf(first))) {
    collection.enter(phase);
    await steps[phase](collection, phase === first ? place : undefined);
  }
  return collection.report();
}
