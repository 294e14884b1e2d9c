import { BlockList, isIP } from "node:net";
import { RegistryError } from "../core/errors.js";

/** Whether the sender at this address is one whose headers are believed: a proxy, or another registry. A peer without an address, as on a Unix socket, is asked about as `""`. */
export type Trust = (address: string) => boolean;

/** A header's value by its name in lower case. */
export type HeaderReader = (name: string) => string | undefined;

/**
 * Reads the options `trustedProxies` and `trustedPeers`.
 *
 * @param option its name, for the error.
 * @throws RegistryError UNKNOWN for what is neither an address nor a CIDR block.
 */
export function trustOf(proxies: readonly string[] | Trust, option: string): Trust {
  if (typeof proxies === "function") {
    return (address) => {
      try {
        // Not a truthiness test: an answer by mistake (a promise) must not open the door.
        return proxies(unmapped(address)) === true;
      } catch {
        return false;
      }
    };
  }
  const list = new BlockList();
  for (const text of proxies) addTo(list, text, option);
  return (address) => {
    // A link-local address may name its interface.
    const [plain = ""] = unmapped(address).split("%", 1);
    const version = isIP(plain);
    return version !== 0 && list.check(plain, version === 4 ? "ipv4" : "ipv6");
  };
}

function addTo(list: BlockList, text: string, option: string): void {
  const [, address = "", bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const version = isIP(address);
  const most = version === 4 ? 32 : 128;
  if (version === 0 || address.includes("%") || Number(bits ?? 0) > most) {
    throw new RegistryError("UNKNOWN", `${option}: ${JSON.stringify(text)} is neither an IP address nor a CIDR block such as 10.0.0.0/8`);
  }
  const family = version === 4 ? "ipv4" : "ipv6";
  if (bits === undefined) list.addAddress(address, family);
  else list.addSubnet(address, Number(bits), family);
}

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

/** A socket that listens on `::` sees IPv4 peers as `::ffff:192.0.2.1`. */
function unmapped(address: string): string {
  const [, ipv4 = ""] = /^::ffff:([\d.]+)$/i.exec(address) ?? [];
  return isIP(ipv4) === 4 ? ipv4 : address;
}

/** Longer than any sensible prefix; what is longer is not put in front of every Location. */
const prefixLimit = 256;

/** Whether a path can stand in front of `/v2/`: segments of unreserved characters (RFC 3986), no dot segments, no slash at the end. */
export function isPathPrefix(path: string): boolean {
  return path.length <= prefixLimit && /^(?:\/(?!\.{1,2}(?:\/|$))[A-Za-z0-9._~-]+)+$/.test(path);
}

/** The path that a trusted proxy cut off. `""` without one, and for anything that is not plainly a path. */
export function forwardedPrefix(header: HeaderReader): string {
  const prefix = header("x-forwarded-prefix");
  return prefix !== undefined && isPathPrefix(prefix) ? prefix : "";
}
