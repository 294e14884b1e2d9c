import { RemoteFailure } from "./failures.js";

// <target> and its parameters, whose values may be quoted and then hold commas. (RFC 8288 section 3)
const link = /<([^>]*)>((?:\s*;\s*[\w!#$&+.^`|~*-]+\s*(?:=\s*(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*))?)*)/g;
// One after the other, so that what looks like a parameter within quotes is none. Unquoted by some (Quay, older Artifactory).
const parameter = /;\s*([\w!#$&+.^`|~*-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?/g;

/**
 * The next page's URL, from a Link header.
 * @throws RemoteFailure when it is on another origin: the request would carry this registry's token there.
 */
export function nextPage(header: string | readonly string[] | undefined, current: URL): URL | undefined {
  if (header === undefined) return undefined;
  const text = typeof header === "string" ? header : header.join(", ");
  for (const [, target, parameters = ""] of text.matchAll(link)) {
    const rel = [...parameters.matchAll(parameter)].find(([, name = ""]) => name.toLowerCase() === "rel");
    // Several relations in one value are allowed.
    const relations = (rel?.[2] ?? rel?.[3] ?? "").toLowerCase().split(/\s+/);
    if (target === undefined || !relations.includes("next")) continue;
    if (!URL.canParse(target, current.href)) throw new RemoteFailure("the link to the next page is no URL");
    const url = new URL(target, current);
    if (url.origin !== current.origin || url.username || url.password) throw new RemoteFailure("the link to the next page leads elsewhere");
    url.hash = "";
    return url;
  }
  return undefined;
}
