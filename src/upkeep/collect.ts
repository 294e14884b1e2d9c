import type { Storage } from "../core/metadata-store.js";
import { collectBlobs } from "./collect-blobs.js";
import { collectExpired } from "./collect-expired.js";
import { collectLinks } from "./collect-links.js";
import { collectLocations } from "./collect-locations.js";
import { collectUploads } from "./collect-uploads.js";
import { Collection } from "./collection.js";
import { type CollectOptions, type CollectReport, phases } from "./collection-report.js";

const steps = {
  links: collectLinks,
  blobs: collectBlobs,
  uploads: collectUploads,
  expired: collectExpired,
  locations: collectLocations,
} as const;

/**
 * Removes what nothing refers to from a storage, for every registry in it, while they are in use in whichever processes: claims of repositories to blobs that no manifest of
 * theirs refers to, blobs that nobody claims, uploads that nobody goes on with, and bytes that no record names. Manifests and tags are never removed.
 *
 * What somebody was told to be there within half the grace, by HEAD, upload or mount, stays. What a cache may evict is left to it. Several collections may run at a
 * time, and one that was killed can be made again; it goes on where `after` says, or from the beginning. Where blobs go it waits a minute for readers.
 *
 * @throws RegistryError UNKNOWN for a grace below two hours, NAME_INVALID for a malformed `after`; the signal's reason; what the stores throw.
 *
 * @example
 * ```ts
 * import { collect } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const { blobs, removed } = await collect(memoryStorage(), { dryRun: true });
 * console.log(`${blobs.removed} blobs of ${blobs.bytes} bytes would go`);
 * for (const { what, repository, digest, why } of removed) console.log(what, repository, digest, why);
 * ```
 */
export async function collect(storage: Storage, options: CollectOptions = {}): Promise<CollectReport> {
  const collection = new Collection(storage, options);
  const { phase: first, place } = collection.start;
  for (const phase of phases.slice(phases.indexOf(first))) {
    collection.enter(phase);
    await steps[phase](collection, phase === first ? place : undefined);
  }
  return collection.report();
}
