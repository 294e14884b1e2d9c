import { urlOf, type VendorOptions } from "../options.js";
import { vendorRegistry } from "../remote-registry.js";
import type { RemoteRegistry } from "../upstream-status.js";

export interface RegistryK8sOptions extends Omit<VendorOptions, "credentials" | "readOnly"> {
  /** For a mirror or a test. Default `"https://registry.k8s.io"`. */
  readonly url?: string;
}

/**
 * The images of Kubernetes: {@link remoteRegistry} with the host `registry.k8s.io`. Read-only and anonymous: it redirects every request, to regional registries on `pkg.dev`
 * and to storage on S3, none of which may ask for anything. It has no catalog.
 *
 * Options as for `remoteRegistry` without `credentials` and `readOnly`, and `url`.
 *
 * @example
 * ```ts
 * import { registryK8s } from "oci-manifold";
 * const registry = registryK8s();
 * await registry.close();
 * ```
 */
export function registryK8s(options: RegistryK8sOptions = {}): RemoteRegistry {
  const { url = "registry.k8s.io", ...rest } = options;
  return vendorRegistry(urlOf(url), rest, { catalog: "none" });
}
