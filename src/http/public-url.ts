/**
 * What the proxies in front of a handler make of a request. `publicUrlOf` reads the options once; for each request it answers the client's address and what comes before `/v2/` in the URL that the
 * client uses, and `seenFrom` writes that into the response. Below are the two headers it believes, from trusted proxies only: `X-Forwarded-For` or `Forwarded` for the address,
 * `X-Forwarded-Prefix` for the path.
 */
import { isIP } from "node:net";
import { RegistryError } from "../core/errors.js";
import { type Trust, trustOf, unmapped } from "../core/ip-addresses.js";
import type { WireHeaders, WireResponse } from "./exchange.js";

/** How clients reach the handler, where that is not by the handler's own socket. */
export interface ProxyOptions {
  /**
   * Where clients find this registry, without `/v2`: `"https://registry.example"` or, behind a proxy that cuts a path off, `"https://example.org/registry"`.
   * `Location` and `Link` then begin with it. Default: they are relative to the domain's root, which is right behind most proxies.
   */
  readonly publicUrl?: string;
  /**
   * The proxies whose `X-Forwarded-For` or `Forwarded` tells the client's address, and whose `X-Forwarded-Prefix` is put in front of `Location` and
   * `Link` where there is no `publicUrl`: addresses, CIDR blocks or a test. From anybody else these headers are ignored. Default: nobody.
   */
  readonly trustedProxies?: readonly string[] | ((address: string) => boolean);
}

/** How a request arrived. */
export interface Arrival {
  /** The address at the other end of the connection. */
  readonly peer: string | undefined;
  /** The client's address, as the framework tells it. */
  readonly address: string | undefined;
  readonly header: HeaderReader;
}

export interface PublicUrl {
  /** `base` is what comes before `/v2/` in the URL that the client uses: nothing, a path or a URL. */
  arrived(arrival: Arrival): { readonly address: string | undefined; readonly base: string };
}

/** @throws RegistryError UNKNOWN for options that cannot be used. */
export function publicUrlOf({ publicUrl, trustedProxies }: ProxyOptions): PublicUrl {
  const fixed = publicUrl === undefined ? undefined : publicBase(publicUrl);
  if (trustedProxies === undefined) {
    const base = fixed ?? "";
    return { arrived: ({ address }) => ({ address, base }) };
  }
  const trusts: Trust = trustOf(trustedProxies, "trustedProxies");
  return {
    arrived({ peer = "", header }) {
      const address = clientAddress(peer, header, trusts) || undefined;
      return { address, base: fixed ?? (trusts(peer) ? forwardedPrefix(header) : "") };
    },
  };
}

/** The URL without a slash at its end. */
function publicBase(text: string): string {
  const parts = /^https?:\/\/[^/?#@\\\s]+(\/[^?#]*)?$/i.exec(text);
  const prefix = parts?.[1]?.replace(/\/$/, "") ?? "";
  if (!parts || !URL.canParse(text) || (prefix !== "" && !isPathPrefix(prefix))) {
    throw new RegistryError(
      "UNKNOWN",
      "publicUrl must be an http or https URL such as https://registry.example or https://example.org/registry, and nothing more",
    );
  }
  if (/(?:^|\/)v2$/.test(prefix)) throw new RegistryError("UNKNOWN", "publicUrl ends before /v2, which every client adds by itself");
  return new URL(text).origin + prefix;
}

/** The response as the client must see it: paths of this registry begin with `base`. A redirect to where the bytes are is left alone. */
export function seenFrom(base: string, response: WireResponse): WireResponse {
  const { Location, Link } = response.headers;
  if (base === "" || (Location === undefined && Link === undefined)) return response;
  const headers: WireHeaders = { ...response.headers };
  if (typeof Location === "string" && Location.startsWith("/")) headers.Location = base + Location;
  if (typeof Link === "string" && Link.startsWith("</")) headers.Link = `<${base}${Link.slice(1)}`;
  return { ...response, headers };
}

/** A header's value by its name in lower case. */
export type HeaderReader = (name: string) => string | undefined;

/**
 * The client's address: going back from the peer, the first that is no trusted proxy. Where a proxy names none that can be read ("unknown", `_hidden`),
 * the last proxy before it is all that is known.
 *
 * `X-Forwarded-For` and `Forwarded` at once are believed only where they agree: a proxy writes one of them and hands on the other as the client sent it.
 */
export function clientAddress(peer: string, header: HeaderReader, trusts: Trust): string {
  const own = unmapped(peer);
  if (!trusts(peer)) return own;
  const legacy = header("x-forwarded-for");
  const standard = header("forwarded");
  const byLegacy = legacy === undefined ? undefined : walkBack(own, legacy.split(",").map(addressOf), trusts);
  const byStandard = standard === undefined ? undefined : walkBack(own, forwardedFor(standard), trusts);
  if (byLegacy !== undefined && byStandard !== undefined && byLegacy !== byStandard) return own;
  return byLegacy ?? byStandard ?? own;
}

function walkBack(peer: string, hops: readonly (string | undefined)[], trusts: Trust): string {
  let known = peer;
  for (const hop of hops.toReversed()) {
    if (hop === undefined) return known;
    known = hop;
    if (!trusts(hop)) return known;
  }
  return known;
}

/** The `for` of each element of a Forwarded header (RFC 7239 section 4); an element without one hides who sent it. */
function forwardedFor(header: string): (string | undefined)[] {
  return splitOutsideQuotes(header, ",").map((element) => {
    for (const pair of splitOutsideQuotes(element, ";")) {
      const [, quoted, token] = /^\s*for=(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))\s*$/i.exec(pair) ?? [];
      const node = quoted === undefined ? token : quoted.replace(/\\(.)/g, "$1");
      if (node !== undefined) return addressOf(node);
    }
    return undefined;
  });
}

function splitOutsideQuotes(text: string, separator: "," | ";"): string[] {
  const parts: string[] = [];
  let start = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (quoted && character === "\\") i++;
    else if (character === '"') quoted = !quoted;
    else if (character === separator && !quoted) {
      parts.push(text.slice(start, i));
      start = i + 1;
    }
  }
  parts.push(text.slice(start));
  return parts;
}

/** An address without brackets and port: Azure's gateways add the port in X-Forwarded-For too. */
function addressOf(node: string): string | undefined {
  const text = node.trim();
  if (isIP(text) !== 0) return unmapped(text);
  const [, bracketed, plain] = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::[\w.-]+)?$/.exec(text) ?? [];
  const address = bracketed ?? plain ?? "";
  return isIP(address) === 0 ? undefined : unmapped(address);
}

/** Longer than any sensible prefix; what is longer is not put in front of every Location. */
const prefixLimit = 256;

/** Whether a path can stand in front of `/v2/`: segments of unreserved characters (RFC 3986), no dot segments, no slash at the end. */
function isPathPrefix(path: string): boolean {
  return path.length <= prefixLimit && /^(?:\/(?!\.{1,2}(?:\/|$))[A-Za-z0-9._~-]+)+$/.test(path);
}

/** The path that a trusted proxy cut off. `""` without one, and for anything that is not plainly a path. */
export function forwardedPrefix(header: HeaderReader): string {
  const prefix = header("x-forwarded-prefix");
  return prefix !== undefined && isPathPrefix(prefix) ? prefix : "";
}
