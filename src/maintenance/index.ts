/**
 * Looks after what registries store. Each job is one function; it can be aborted by a signal, tells its progress, and runs while the registries are in use:
 *
 * - `collectGarbage` removes what nothing refers to; `scrub` reads stored bytes and compares them with their digests;
 * - `findDangling` tells which references of stored manifests no member can give, `impactOfRemoving` which would be after a connector has gone;
 * - `copyToLocal` stores here what connectors give, and `repair` brings back lost blobs;
 * - `promote` puts images into another registry, and `promotions` tells which were; `browse` lists the tags of a repository with what is known of each.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { collectGarbage, scrub } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const storage = memoryStorage();
 * const release = localRegistry({ storage, name: "release" });
 * const { corrupt } = await scrub(storage);
 * for (const { digest, why } of corrupt) console.error(`${digest}: ${why}`);
 * const { bytes } = await collectGarbage(storage, { signal: AbortSignal.timeout(3_600_000) });
 * console.log(`${bytes} bytes were removed`);
 * await release.close();
 * ```
 */
export type { InspectableAggregate, InspectableMember } from "./availability.js";
export { type BrowsedTag, type BrowseOptions, browse } from "./browse.js";
export { collectGarbage } from "./collect-garbage/collect-garbage.js";
export type {
  CollectedItem,
  CollectGarbageOptions,
  CollectGarbagePhase,
  CollectGarbageProgress,
  CollectGarbageReport,
} from "./collect-garbage/collection.js";
export {
  type CopyFailure,
  type CopySelection,
  type CopyToLocalOptions,
  type CopyToLocalProgress,
  type CopyToLocalReport,
  copyToLocal,
} from "./copy-to-local.js";
export {
  type FindDanglingOptions,
  type FindDanglingProgress,
  type FindDanglingReport,
  type Finding,
  findDangling,
} from "./find-dangling.js";
export { type ImpactReport, impactOfRemoving, type LostNames } from "./impact-of-removing.js";
export type { BlobProvider, ReferencingRepository } from "./lost-blobs.js";
export { type PromoteOptions, type PromoteProgress, type PromoteReport, promote } from "./promote.js";
export { type PromotionTarget, promotions } from "./promotions.js";
export { type LostBlob, type RepairOptions, type RepairProgress, type RepairReport, repair } from "./repair.js";
export { type ScrubFinding, type ScrubLoss, type ScrubOptions, type ScrubProgress, type ScrubReport, scrub } from "./scrub.js";
