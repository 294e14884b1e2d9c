import { RemoteFailure } from "./failures.js";
import { HeaderScanner } from "./header-scanner.js";

// <target> and its parameters, whose values may be quoted and then hold commas. (RFC 8288 section 3)
const separator = /\s*;\s*/y;
const name = /[\w!#$&+.^`|~*-]+/y;
const equals = /\s*=\s*/y;
// Unquoted by some (Quay, older Artifactory).
const bare = /[^\s;,"]*/y;

/**
 * The next page's URL, from a Link header. What follows a target or a quoted value that does not end is ignored.
 * @throws RemoteFailure when it is on another origin: the request would carry this registry's token there. When none is said to be next and one has no relation at all: some
 *   leave it out.
 */
export function nextPage(header: string | readonly string[] | undefined, current: URL): URL | undefined {
  if (header === undefined) return undefined;
  const links = new HeaderScanner(typeof header === "string" ? header : header.join(", "));
  const { text } = links;
  let unnamed = false;
  for (let start = text.indexOf("<"); start >= 0; start = text.indexOf("<", links.at)) {
    const end = text.indexOf(">", start);
    if (end < 0) break;
    links.at = end + 1;
    const rel = takeRel(links);
    if (rel === "malformed") break;
    if (rel.value === "") unnamed = true;
    // Several relations in one value are allowed.
    if (!rel.value.toLowerCase().split(/\s+/).includes("next")) continue;
    const target = text.slice(start + 1, end);
    if (!URL.canParse(target, current.href)) throw new RemoteFailure("the link to the next page is no URL");
    const url = new URL(target, current);
    if (url.origin !== current.origin || url.username || url.password)
      throw new RemoteFailure("the link to the next page leads to another origin");
    url.hash = "";
    return url;
  }
  if (unnamed) throw new RemoteFailure("a link does not say whether it leads to the next page");
  return undefined;
}

/** The first parameter `rel` of the link whose target was read last. All its parameters are read. */
function takeRel(links: HeaderScanner): { readonly value: string } | "malformed" {
  let rel: string | undefined;
  while (links.take(separator)) {
    const parameter = links.take(name)?.[0];
    if (parameter === undefined) break;
    let value = "";
    if (links.take(equals)) {
      const isQuoted = links.text[links.at] === '"';
      const taken = isQuoted ? links.takeQuoted() : links.take(bare)?.[0];
      if (taken === undefined) return "malformed";
      value = taken;
    }
    if (parameter.toLowerCase() === "rel") rel ??= value;
  }
  return { value: rel ?? "" };
}
