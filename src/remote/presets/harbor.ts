import { type RemoteOptions, urlOf } from "../options.js";
import { vendorRegistry } from "../remote-registry.js";
import type { RemoteRegistry } from "../upstream-status.js";

/**
 * A Harbor: {@link remoteRegistry} with its quirks. The user name is that of a robot account, `robot$team+reader`. Its challenges name the `external_url` it was installed with: list
 * that host in `realmHosts` when `url` is another, as inside a cluster. Images that a policy of the project keeps back (found vulnerable, not signed; 412) are `denied`. A robot of one
 * project may not list repositories: the page is empty, with a warning.
 *
 * Options as for `remoteRegistry`.
 * @param url or its host.
 *
 * @example
 * ```ts
 * import { harbor } from "oci-manifold";
 * const registry = harbor("harbor.example", { credentials: { username: "robot$team+reader", password: process.env.HARBOR_SECRET ?? "" } });
 * await registry.close();
 * ```
 */
export function harbor(url: string, options: RemoteOptions = {}): RemoteRegistry {
  return vendorRegistry(urlOf(url), options, {});
}
