import { RegistryError } from "../core/errors.js";
import { allPages, type Page, type PageRequest } from "../core/page.js";
import type { Registry } from "../core/registry.js";
import type { Promotion, StoringRegistry } from "../core/storing-registry.js";
import { unlessAborted } from "../core/until-aborted.js";

/** Where images are promoted to: a local registry, or an aggregate, whose local one then takes them. */
export type PromotionTarget = StoringRegistry | (Registry & { readonly local: StoringRegistry });

/** The registry that keeps what is promoted, and the record of it. */
export function localOf(target: PromotionTarget): StoringRegistry {
  const local = "local" in target ? target.local : target;
  if (typeof local.recordPromotion === "function") return local;
  throw new RegistryError(
    "UNSUPPORTED",
    "promotions are recorded where they go to: promote to a local registry, or to an aggregate over one",
  );
}

/**
 * The promotions into a repository, in order of tags and, for each tag, of time.
 *
 * @param page `tag`: only those of one tag.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { promotions } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const release = localRegistry({ storage: memoryStorage(), name: "release" });
 * const { items } = await promotions(release, "team/app", { limit: 100, tag: "1.4.0" });
 * for (const { time, by, digest, comment } of items) console.log(new Date(time), by, digest, comment);
 * ```
 */
export function promotions(
  target: PromotionTarget,
  repository: string,
  page: PageRequest & { readonly tag?: string },
): Promise<Page<Promotion>> {
  return localOf(target).listPromotions(repository, page);
}

/** The promotion that made a tag point to what it points to. */
export async function latestOf(
  local: StoringRegistry,
  repository: string,
  tag: string,
  signal?: AbortSignal,
): Promise<Promotion | undefined> {
  let latest: Promotion | undefined;
  for await (const promotion of allPages((page) => unlessAborted(signal, () => local.listPromotions(repository, { ...page, tag }))))
    latest = promotion;
  return latest;
}
