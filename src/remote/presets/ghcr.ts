import { urlOf, type VendorOptions } from "../options.js";
import { vendorRegistry } from "../remote-registry.js";
import type { RemoteRegistry } from "../upstream-status.js";

export interface GhcrOptions extends VendorOptions {
  /** For a mirror or a test. Default `"https://ghcr.io"`. */
  readonly url?: string;
}

/**
 * GitHub's container registry: {@link remoteRegistry} with its host, called `ghcr.io`. The password is a personal access token with `read:packages` (`write:packages` to push),
 * the user name anything. Its token endpoint refuses what does not exist and what is private alike: `denied`. It has no catalog.
 *
 * Options as for `remoteRegistry`, and `url`.
 *
 * @example
 * ```ts
 * import { ghcr } from "oci-manifold";
 * const registry = ghcr({ credentials: () => ({ username: "robot", password: process.env.GHCR_TOKEN ?? "" }) });
 * await registry.close();
 * ```
 */
export function ghcr(options: GhcrOptions = {}): RemoteRegistry {
  const { url = "ghcr.io", ...rest } = options;
  return vendorRegistry(urlOf(url), { ...rest, name: rest.name ?? "ghcr.io" }, { catalog: "none" });
}
