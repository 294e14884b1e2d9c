import type { Challenge } from "./challenge.js";
import { RemoteFailure } from "./failures.js";

/** Where a token comes from and what it is good for. */
export interface TokenRequest {
  readonly realm: URL;
  readonly service: string | undefined;
  /** Space-separated, as challenged. */
  readonly scope: string;
}

/**
 * Reads a Bearer challenge. The realm is pinned, since credentials are sent there: an upstream (or whoever answers in its place) must not
 * be able to name any server on earth, or one of the host's own network.
 *
 * @param realmHosts hosts beside the registry's own, as `host` (any port) or `host:port`.
 * @param scope its first part is for registries that challenge without one. Further parts, behind spaces, are asked for in any case: not every registry names
 *   the source of a mount in its challenge.
 * @throws RemoteFailure for a realm that is missing, on a host that is not trusted, or http where the registry is https.
 */
export function readTokenRequest(challenge: Challenge, registry: URL, realmHosts: readonly string[], scope: string): TokenRequest {
  const text = challenge.parameters.get("realm");
  if (text === undefined || !URL.canParse(text)) throw new RemoteFailure("the Bearer challenge names no token endpoint");
  const realm = new URL(text);
  if (realm.protocol !== "https:" && !(realm.protocol === "http:" && registry.protocol === "http:")) {
    throw new RemoteFailure("the Bearer challenge names a token endpoint that is not https");
  }
  if (realm.username || realm.password) throw new RemoteFailure("the Bearer challenge names a token endpoint with credentials in it");
  const trusted =
    realm.hostname === registry.hostname || realmHosts.some((host) => [realm.hostname, realm.host].includes(host.toLowerCase()));
  if (!trusted) {
    throw new RemoteFailure(`the Bearer challenge names a token endpoint on ${realm.host}: list that host in realmHosts if you trust it`);
  }
  realm.hash = "";
  const [own = "", ...further] = scope.split(" ");
  const asked = challenge.parameters.get("scope") ?? own;
  const missing = further.filter((part) => !asked.split(" ").includes(part));
  return { realm, service: challenge.parameters.get("service"), scope: [asked, ...missing].join(" ") };
}
