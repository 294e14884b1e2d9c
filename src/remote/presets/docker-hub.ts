import { parseBaseUrls, type VendorOptions } from "../options.js";
import { vendorRegistry } from "../remote-registry.js";
import type { RemoteRegistry } from "../upstream-status.js";

/** The host that answers for Docker Hub; the other names people write for it lead to web sites or redirects. */
const registryHost = "registry-1.docker.io";
const aliases: ReadonlySet<string> = new Set(["docker.io", "index.docker.io", registryHost]);

export interface DockerHubOptions extends VendorOptions {
  /**
   * Another base URL, for a mirror or a test; or several, asked in order. Default `"https://registry-1.docker.io"`; `docker.io` and `index.docker.io` mean the same. A
   * mirror's challenges may name its own host or `auth.docker.io`.
   */
  readonly url?: string | readonly string[];
}

/**
 * Docker Hub's own name for a repository: official images live under `library/`, so `node` and `library/node` are one repository.
 *
 * @example
 * ```ts
 * import { dockerHubName } from "oci-manifold/names";
 * console.assert(dockerHubName("node") === "library/node");
 * console.assert(dockerHubName("bitnami/redis") === "bitnami/redis");
 * ```
 */
export function dockerHubName(name: string): string {
  return name.includes("/") ? name : `library/${name}`;
}

/**
 * Docker Hub, read-only unless `readOnly` is false: {@link remoteRegistry} with its host, its token endpoint on `auth.docker.io`, and `library/` for names of one segment. Called
 * `docker.io` unless `name` says otherwise. It has no catalog: `listRepositories` answers an empty page with a warning.
 *
 * What does not exist and what is private are answered alike, as `denied`. The pull quota is read from its answers, and a twentieth of it left (`quotaReserve`). Without credentials the pull quota counts by IP address; manifests that
 * are fetched count, `resolveManifest` mostly does not.
 *
 * Options as for `remoteRegistry`, and `url` for a mirror.
 * @throws RegistryError UNKNOWN for a URL or options that cannot work.
 *
 * @example
 * ```ts
 * import { dockerHub } from "oci-manifold";
 * const hub = dockerHub({ credentials: { username: "robot", password: process.env.HUB_TOKEN ?? "" } });
 * await hub.ready();
 * await hub.close();
 * ```
 */
export function dockerHub(options: DockerHubOptions = {}): RemoteRegistry {
  const { url = `https://${registryHost}`, ...rest } = options;
  const bases = parseBaseUrls(url);
  for (const base of bases) if (aliases.has(base.hostname)) base.hostname = registryHost;
  return vendorRegistry(
    bases.map(({ origin }) => origin),
    { quotaReserve: 0.05, ...rest, name: rest.name ?? "docker.io", realmHosts: ["auth.docker.io"] },
    { toUpstream: dockerHubName, catalog: "none", credentialName: (host) => (host === registryHost ? "docker.io" : host) },
  );
}
