/**
 * The challenges of 401 responses. `parseChallenges` reads the header, `preferredChallenge` takes the one to answer, and `readTokenRequest` makes of a Bearer challenge the request for a token,
 * to a token endpoint that may be trusted with credentials.
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
