import { BlockList, isIP } from "node:net";
import { RegistryError } from "./errors.js";

/**
 * What a registry asks about IP addresses: which kind of network one belongs to ({@link kindOfAddress}, for where an upstream may lead to), whether a list of
 * blocks has it ({@link addressList}), whose headers are believed ({@link trustOf}), and which clients count as one ({@link networkOf}).
 */

/** What kind of network an address belongs to. */
export type AddressKind =
  | "public"
  | "loopback"
  | "link-local"
  | "private"
  | "shared"
  | "metadata"
  | "multicast"
  | "unspecified"
  | "reserved";

/** The first that holds an address decides; what none holds is public. (The special-purpose registries of IANA) */
const ranges: readonly (readonly [AddressKind, readonly string[]])[] = [
  [
    "metadata",
    [
      // AWS, Google, Azure and most others; roles of ECS tasks and EKS pods.
      ...["169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"],
      // Azure's host, Alibaba, Oracle: they lie in ranges that are otherwise public, shared and reserved.
      ...["168.63.129.16", "100.100.100.200", "192.0.0.192"],
    ],
  ],
  ["unspecified", ["0.0.0.0/8", "::"]],
  ["loopback", ["127.0.0.0/8", "::1"]],
  ["link-local", ["169.254.0.0/16", "fe80::/10"]],
  ["private", ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10", "64:ff9b:1::/48"]],
  // Carrier-grade NAT; Tailscale and some Kubernetes networks use it too.
  ["shared", ["100.64.0.0/10"]],
  ["multicast", ["224.0.0.0/4", "ff00::/8"]],
  [
    "reserved",
    [
      ...["192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"],
      // What was 6to4's relay.
      "192.88.99.0/24",
      ...["100::/64", "2001::/32", "2001:db8::/32", "3fff::/20"],
      // Segment routing.
      "5f00::/16",
      // Translated to IPv4 by a gateway of the network (RFC 7915).
      "::ffff:0:0:0/96",
    ],
  ],
];
const lists = ranges.map(([kind, blocks]) => [kind, addressList(blocks)] as const);

/** @param address an IP address, without brackets. */
export function kindOfAddress(address: string): AddressKind {
  const plain = plainAddress(address);
  const kind = kindOf(plain);
  if (kind !== "reserved" || isIP(plain) !== 6) return kind;
  // A gateway would take it there.
  const groups = groupsOf(plain);
  const [e = 0, f = 0, g = 0, h = 0] = groups.slice(4);
  const isTranslated = e === 0xffff && f === 0 && groups.slice(0, 4).every((group) => group === 0);
  const translated = isTranslated ? kindOf(dotted(g, h)) : "public";
  return translated === "public" ? kind : translated;
}

function kindOf(plain: string): AddressKind {
  return lists.find(([, list]) => list.check(plain, familyOf(plain)))?.[0] ?? "public";
}

/** Whether a list holds an address, in whatever form it is written. */
export function isListed(list: BlockList, address: string): boolean {
  const plain = plainAddress(address);
  return list.check(plain, familyOf(plain));
}

/**
 * @param option what lists the blocks, for the error.
 * @throws RegistryError UNKNOWN for what is neither an address nor a block such as `10.1.0.0/16`.
 */
export function addressList(blocks: readonly string[], option?: string): BlockList {
  const list = new BlockList();
  for (const block of blocks) {
    const [address = "", bits, ...rest] = block.split("/");
    const most = isIP(address) === 4 ? 32 : 128;
    const length = bits === undefined ? most : /^\d{1,3}$/.test(bits) ? Number(bits) : Number.NaN;
    if (isIP(address) === 0 || address.includes("%") || rest.length > 0 || !(length <= most)) {
      const where = option === undefined ? "" : `${option}: `;
      throw new RegistryError("UNKNOWN", `${where}${JSON.stringify(block)} is neither an IP address nor a CIDR block such as 10.0.0.0/8`);
    }
    list.addSubnet(address, length, familyOf(address));
  }
  return list;
}

/** Without the zone, and as IPv4 where an IPv6 address only carries one: a gateway or this machine would take it there. */
function plainAddress(address: string): string {
  const unzoned = address.split("%", 1)[0] ?? "";
  if (isIP(unzoned) !== 6) return unzoned;
  const groups = groupsOf(unzoned);
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = groups;
  const isShort = (a | b | c | d | e) === 0;
  const isMapped = isShort && f === 0xffff;
  const isCompatible = isShort && f === 0 && (g !== 0 || h > 1);
  const isNat64 = a === 0x64 && b === 0xff9b && (c | d | e | f) === 0;
  if (isMapped || isCompatible || isNat64) return dotted(g, h);
  return a === 0x2002 ? dotted(b, c) : unzoned;
}

function groupsOf(address: string): number[] {
  // The URL parser writes every form alike: no dotted end, no zeroes in front.
  const [head = "", tail] = new URL(`http://[${address}]/`).hostname.slice(1, -1).split("::");
  const read = (text: string) =>
    text
      .split(":")
      .filter(Boolean)
      .map((group) => Number.parseInt(group, 16));
  if (tail === undefined) return read(head);
  const [before, after] = [read(head), read(tail)];
  return [...before, ...new Array<number>(8 - before.length - after.length).fill(0), ...after];
}

function dotted(high: number, low: number): string {
  return [high >> 8, high & 0xff, low >> 8, low & 0xff].join(".");
}

function familyOf(address: string): "ipv4" | "ipv6" {
  return isIP(address) === 4 ? "ipv4" : "ipv6";
}

/** Whether headers of the sender at this address are believed: of a proxy, or of another registry. A peer without an address, as on a Unix socket, is `""`. */
export type Trust = (address: string) => boolean;

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
  const list = addressList(proxies, option);
  return (address) => {
    // A link-local address may name its interface.
    const [plain = ""] = unmapped(address).split("%", 1);
    // Not `isListed`: an address that only carries an IPv4 address, as by NAT64, is another host than that.
    return isIP(plain) !== 0 && list.check(plain, familyOf(plain));
  };
}

/** A socket that listens on `::` sees IPv4 peers as `::ffff:192.0.2.1`. */
export function unmapped(address: string): string {
  const [, ipv4 = ""] = /^::ffff:([\d.]+)$/i.exec(address) ?? [];
  return isIP(ipv4) === 4 ? ipv4 : address;
}

/** An IPv4 address as it is; of an IPv6 address its first 64 bits. Anything else is left alone: a host may tell clients apart in its own way. */
export function networkOf(address: string): string {
  const [unzoned = ""] = unmapped(address).split("%", 1);
  if (isIP(unzoned) !== 6) return isIP(unzoned) === 4 ? unzoned : address;
  const groups = groupsOf(unzoned).slice(0, 4);
  return `${groups.map((group) => group.toString(16)).join(":")}::/64`;
}
