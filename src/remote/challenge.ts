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
