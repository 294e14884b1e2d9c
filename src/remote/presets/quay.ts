import { urlOf, type VendorOptions } from "../options.js";
import { vendorRegistry } from "../remote-registry.js";
import type { RemoteRegistry } from "../upstream-status.js";

export interface QuayOptions extends VendorOptions {
  /** For a Quay of one's own. Default `"https://quay.io"`. */
  readonly url?: string;
}

/**
 * Quay.io, or another Quay by `url`: {@link remoteRegistry} that asks only for scopes Quay knows. The user name is that of a robot account, `team+robot`. Older ones page by
 * `next_page` and by the time of creation: their lists are read in full and sorted here. A mount without source uploads instead, since Quay has none.
 *
 * Options as for `remoteRegistry`, and `url`.
 *
 * @example
 * ```ts
 * import { quay } from "oci-manifold";
 * const registry = quay({ credentials: { username: "team+robot", password: process.env.QUAY_TOKEN ?? "" } });
 * await registry.close();
 * ```
 */
export function quay(options: QuayOptions = {}): RemoteRegistry {
  const { url = "quay.io", ...rest } = options;
  return vendorRegistry(urlOf(url), rest, { toScope });
}

/** Quay answers 400 to `delete` and to anything but repositories. Who may push may delete, and whose the catalog is, the token says without a scope. */
function toScope(scope: string): string {
  return scope
    .split(" ")
    .filter((one) => one.startsWith("repository:"))
    .map((one) => one.replace(/:[^:]*$/, (actions) => actions.replace(/\bdelete\b/, "push")))
    .join(" ");
}
