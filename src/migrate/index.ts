/**
 * Takes over what another registry has stored: `adoptDistribution` serves the repositories of a docker-registry (distribution, v2 and v3) from its folder
 * (`distributionFolder`) or its bucket (`distributionBucket` of `oci-manifold/storage/s3`). It may be run again and again while that one is still written to.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { adoptDistribution, distributionFolder } from "oci-manifold/migrate";
 * import { fileStorage } from "oci-manifold/storage/files";
 *
 * async function moveIn(): Promise<void> {
 *   const release = localRegistry({ storage: fileStorage("./data"), name: "release" });
 *   const { incomplete } = await adoptDistribution(release, distributionFolder("/var/lib/registry"));
 *   for (const { repository, reference, why } of incomplete) console.error(`${repository} ${reference}: ${why}`);
 *   await release.close();
 * }
 * ```
 */
export type { DistributionStorage } from "../core/distribution-storage.js";
export { type AdoptOptions, adoptDistribution } from "./adopt-distribution.js";
export type { AdoptProblem, AdoptProgress, AdoptReport, KeptTag, RemovedTag } from "./adopt-report.js";
export { distributionFolder } from "./distribution-folder.js";
