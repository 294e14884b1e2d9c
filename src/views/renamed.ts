import type { NameMapping } from "../core/connector.js";
import type { Registry } from "../core/registry.js";
import { intercept } from "./intercept.js";
import { renamedCatalog } from "./renamed-catalog.js";

/**
 * The same registry under other repository names.
 *
 * @example
 * ```ts
 * import { localRegistry, renamed } from "oci-manifold";
 * import { prefixed } from "oci-manifold/names";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const team = renamed(localRegistry({ storage: memoryStorage(), name: "team" }), prefixed("team/"));
 * const upload = await team.startUpload("team/app"); // "app" in the registry behind
 * await upload.cancel();
 * ```
 */
export function renamed(registry: Registry, mapping: NameMapping): Registry {
  return intercept(
    registry,
    ({ repository }) => mapping.toSource(repository),
    () => ({
      canonicalName(repository) {
        const theirs = mapping.toSource(repository);
        if (theirs === undefined) return repository;
        return mapping.fromSource(registry.canonicalName?.(theirs) ?? theirs) ?? repository;
      },
      listRepositories: renamedCatalog(registry, mapping),
    }),
    (theirs) => mapping.fromSource(theirs),
  );
}
