/**
 * Mappings between a registry's names of repositories and ours, for `renamed` and the `rename` of a connector: `prefixed`, `stripped`, `nameTable`, `dockerLibrary` (Docker Hub's
 * short names), and `chained` for several in a row. `dockerHubName` tells Docker Hub's one name for a repository. A mapping of a host's own is an object with
 * `toSource` and `fromSource` (`NameMapping`).
 *
 * @example
 * ```ts
 * import { dockerHub, renamed } from "oci-manifold";
 * import { chained, dockerLibrary, prefixed } from "oci-manifold/names";
 *
 * // Docker Hub's `library/node` is `hub/node` here.
 * const hub = renamed(dockerHub(), chained(prefixed("hub/"), dockerLibrary()));
 * await hub.close();
 * ```
 */
export type { NameMapping } from "./core/connector.js";
export { dockerHubName } from "./remote/presets/docker-hub.js";
export { chained, dockerLibrary, nameTable, prefixed, stripped } from "./views/names.js";
