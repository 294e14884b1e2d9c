import type { Registry } from "../core/registry.js";
import type { Searchable, SearchSource } from "../core/search.js";

/**
 * The same registry, searched by a service beside it. Put it around what is given to a connector as its source, so outside of a cache.
 *
 * @example
 * ```ts
 * import { cached, dockerHub } from "oci-manifold";
 * import { dockerHubSearch, searchable } from "oci-manifold/extend";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const hub = searchable(cached(dockerHub(), { storage: memoryStorage(), name: "hub" }), dockerHubSearch());
 * await hub.close();
 * ```
 */
export function searchable<R extends Registry>(registry: R, search: SearchSource): R & Searchable {
  // The same object, so that mounts from it and its holders are recognised.
  return Object.assign(registry, { search });
}
