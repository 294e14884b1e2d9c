import { RegistryError } from "../../core/errors.js";
import type { CredentialSource } from "../credentials.js";
import { urlOf, type VendorOptions } from "../options.js";
import { vendorRegistry } from "../remote-registry.js";
import type { RemoteRegistry } from "../upstream-status.js";

export interface GoogleArtifactRegistryOptions extends VendorOptions {
  /** Gives an access token, as `getAccessToken()` of google-auth-library does. Called for each token request. Instead of `credentials`. */
  readonly accessToken?: () => string | Promise<string>;
  /** The JSON text of a service account's key. Instead of `credentials`. */
  readonly jsonKey?: string;
}

/**
 * Google's Artifact Registry, or its older `gcr.io`: {@link remoteRegistry} that logs in with an access token or a service account's key. Its lists come in one piece whatever is asked
 * for, and are paged here.
 *
 * Options as for `remoteRegistry`, and `accessToken`, `jsonKey`.
 * @param host such as `europe-docker.pkg.dev`, or URL.
 * @throws RegistryError UNKNOWN for options that cannot work.
 *
 * @example
 * ```ts
 * import { googleArtifactRegistry } from "oci-manifold";
 * const registry = googleArtifactRegistry("europe-docker.pkg.dev", { accessToken: async () => process.env.GOOGLE_TOKEN ?? "" });
 * await registry.close();
 * ```
 */
export function googleArtifactRegistry(host: string, options: GoogleArtifactRegistryOptions = {}): RemoteRegistry {
  const { accessToken, jsonKey, ...rest } = options;
  const sources: CredentialSource[] = [];
  if (rest.credentials) sources.push(rest.credentials);
  if (accessToken) sources.push(async () => ({ username: "oauth2accesstoken", password: await accessToken() }));
  if (jsonKey !== undefined) sources.push({ username: "_json_key", password: jsonKey });
  const [credentials, ...others] = sources;
  if (others.length > 0) throw new RegistryError("UNKNOWN", "googleArtifactRegistry takes one of credentials, accessToken and jsonKey");
  return vendorRegistry(urlOf(host), { ...rest, ...(credentials && { credentials }) }, { lists: "in one piece" });
}
