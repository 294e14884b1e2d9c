import { RegistryError } from "../core/errors.js";
import { headerOf, type UpstreamResponse, wholeNumber } from "./transport.js";

/**
 * Where an upload goes on. Registries answer with a path or a whole URL, with a query of their own (the state of docker-registry's), and another one each time.
 * @throws RegistryError UNAVAILABLE when there is none, or when it is on another origin: the token and the bytes would go there. The message does not
 *   repeat it, since it may be signed.
 */
export function uploadLocation(response: UpstreamResponse, base: URL, what: string): URL {
  const text = headerOf(response, "location");
  if (text === undefined) throw refused(what, "the upstream did not say where the upload goes on");
  if (!URL.canParse(text, response.url.href)) throw refused(what, "the upstream sent the upload to something that is no URL");
  const url = new URL(text, response.url);
  if (url.origin !== base.origin || url.username || url.password) throw refused(what, "the upstream sent the upload to another origin");
  url.hash = "";
  return url;
}

/** Closing an upload adds to the query that is there, which stays as it is, byte for byte: it may be signed. */
export function withDigest(location: URL, digest: string): URL {
  const url = new URL(location);
  url.search = [url.search.slice(1), `digest=${encodeURIComponent(digest)}`].filter(Boolean).join("&");
  return url;
}

/**
 * How many bytes an upload has, from the Range of an answer. `0-0` means one byte by the specification, and none in docker-registry and here.
 */
export function statedOffset(response: UpstreamResponse): number | "none or one" | undefined {
  const last = wholeNumber(/^(?:bytes=)?0-(\d+)$/.exec(headerOf(response, "range")?.trim() ?? "")?.[1]);
  if (last === undefined) return undefined;
  return last === 0 ? "none or one" : last + 1;
}

function refused(what: string, why: string): RegistryError {
  return new RegistryError("UNAVAILABLE", `${what}: ${why}`);
}
