/**
 * The challenges of 401 responses. `parseChallenges` reads the header, `preferredChallenge` takes the one to answer, and `readTokenRequest` makes of a Bearer challenge the request for a token,
 * and says whether the token endpoint may have the credentials.
 */
import { RemoteFailure } from "./failures.js";
import { HeaderScanner } from "./header-scanner.js";

/** One challenge of a WWW-Authenticate header. (RFC 9110 section 11.6.1) */
export interface Challenge {
  /** In lower case. */
  readonly scheme: string;
  /** Names in lower case; of a repeated name the first value. A Map, since names come from the network. */
  readonly parameters: ReadonlyMap<string, string>;
  readonly token68?: string;
}

const token = /[!#$%&'*+\-.^_`|~0-9A-Za-z]+/y;
// Followed by a comma or the end; else it is the name of a parameter.
const token68 = /([A-Za-z0-9\-._~+/]+=*)[ \t]*(?=,|$)/y;
const equals = /[ \t]*=[ \t]*/y;
const space = /[ \t]+/y;
const separators = /[ \t,]*/y;

/**
 * Reads all challenges of all WWW-Authenticate headers, in order. Registries send several headers, or several challenges in one header
 * whose parameters hold commas themselves (`scope="repository:a:pull,push"`), so splitting at commas does not do. What follows a
 * syntax error in a header is ignored.
 */
export function parseChallenges(header: string | readonly string[] | undefined): Challenge[] {
  if (header === undefined) return [];
  return (typeof header === "string" ? [header] : header).flatMap(parseHeader);
}

/** The challenge to answer: Bearer before Basic, whichever came first of its kind. */
export function preferredChallenge(challenges: readonly Challenge[]): Challenge | undefined {
  return challenges.find(({ scheme }) => scheme === "bearer") ?? challenges.find(({ scheme }) => scheme === "basic");
}

function parseHeader(text: string): Challenge[] {
  const challenges: Challenge[] = [];
  let parameters: Map<string, string> | undefined;
  const header = new HeaderScanner(text);

  for (;;) {
    header.take(separators);
    const word = header.take(token)?.[0];
    if (word === undefined) return challenges;
    if (parameters && header.take(equals)) {
      const value = header.takeQuoted() ?? header.take(token)?.[0];
      if (value === undefined) return challenges;
      const name = word.toLowerCase();
      if (!parameters.has(name)) parameters.set(name, value);
      continue;
    }
    const credentials = header.take(space) && header.take(token68)?.[1];
    parameters = new Map();
    challenges.push({ scheme: word.toLowerCase(), parameters, ...(credentials !== undefined && { token68: credentials }) });
  }
}

/** Where a token comes from and what it is good for. */
export interface TokenRequest {
  readonly realm: URL;
  readonly service: string | undefined;
  /** Space-separated, as challenged. */
  readonly scope: string;
  /** Whether the registry's credentials may be sent there; else it is asked anonymously. */
  readonly trusted: boolean;
}

/**
 * Reads a Bearer challenge. Any host may be asked for an anonymous token, as docker does. Credentials go only to the registry's own origin, to https on its host and to
 * `realmHosts`: an upstream (or whoever answers in its place) must not be able to name where they are sent.
 *
 * @param realmHosts hosts beside the registry's own, as `host` (any port) or `host:port`.
 * @param scope its first part is for registries that challenge without one. Further parts, behind spaces, are asked for in any case: not every registry names
 *   the source of a mount in its challenge.
 * @throws RemoteFailure for a realm that is missing, or http where the registry is https.
 */
export function readTokenRequest(challenge: Challenge, registry: URL, realmHosts: readonly string[], scope: string): TokenRequest {
  const text = challenge.parameters.get("realm");
  if (text === undefined || !URL.canParse(text)) throw new RemoteFailure("the Bearer challenge names no token endpoint");
  const realm = new URL(text);
  if (realm.protocol !== "https:" && !(realm.protocol === "http:" && registry.protocol === "http:")) {
    throw new RemoteFailure("the Bearer challenge names a token endpoint that is not https");
  }
  if (realm.username || realm.password) throw new RemoteFailure("the Bearer challenge names a token endpoint with credentials in it");
  const isOwn = realm.origin === registry.origin || (realm.protocol === "https:" && realm.hostname === registry.hostname);
  const trusted = isOwn || realmHosts.some((host) => [realm.hostname, realm.host].includes(host.toLowerCase()));
  realm.hash = "";
  const [own = "", ...further] = scope.split(" ");
  const asked = challenge.parameters.get("scope") ?? own;
  const missing = further.filter((part) => !asked.split(" ").includes(part));
  return { realm, service: challenge.parameters.get("service"), scope: [asked, ...missing].join(" "), trusted };
}
