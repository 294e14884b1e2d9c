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
const quoted = /"((?:[^"\\]|\\[\s\S])*)"/y;
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
  let at = 0;
  const take = (pattern: RegExp): RegExpExecArray | undefined => {
    pattern.lastIndex = at;
    const match = pattern.exec(text) ?? undefined;
    if (match) at = pattern.lastIndex;
    return match;
  };

  for (;;) {
    take(separators);
    const word = take(token)?.[0];
    if (word === undefined) return challenges;
    if (parameters && take(equals)) {
      const value = take(quoted)?.[1]?.replace(/\\([\s\S])/g, "$1") ?? take(token)?.[0];
      if (value === undefined) return challenges;
      const name = word.toLowerCase();
      if (!parameters.has(name)) parameters.set(name, value);
      continue;
    }
    const credentials = take(space) && take(token68)?.[1];
    parameters = new Map();
    challenges.push({ scheme: word.toLowerCase(), parameters, ...(credentials !== undefined && { token68: credentials }) });
  }
}
