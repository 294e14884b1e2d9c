import { lookup as systemLookup } from "node:dns";
import { type BlockList, isIP, type LookupFunction } from "node:net";
import { type AddressKind, addressList, isListed, kindOfAddress } from "./addresses.js";
import { RemoteFailure } from "./failures.js";

/**
 * Keeps what an upstream names (token endpoints, targets of redirects) from leading into the host's own network. Addresses are judged when a connection is
 * made, by what the name stands for at that moment, so a name that changes its mind after a check gains nothing.
 *
 * The registry's own hosts are written by the host application, so they may be anywhere, but for a name that stands for a cloud's metadata service. A
 * registry inside a network may lead to the same kind of address.
 */
export class AddressGuard {
  readonly #ownKinds = new Map<string, ReadonlySet<AddressKind>>();
  readonly #own: ReadonlySet<string>;
  readonly #allowed: BlockList;
  readonly #resolve: typeof systemLookup;

  /**
   * @param own host names, without ports.
   * @param allowed addresses and blocks of them.
   * @throws RegistryError UNKNOWN when one of those is none.
   */
  constructor(own: readonly string[], allowed: readonly string[], resolve: typeof systemLookup = systemLookup) {
    this.#own = new Set(own.map(unbracketed));
    this.#allowed = addressList(allowed);
    this.#resolve = resolve;
    for (const host of this.#own) if (isIP(host)) this.#ownKinds.set(host, new Set([kindOfAddress(host)]));
  }

  isOwn(host: string): boolean {
    return this.#own.has(unbracketed(host));
  }

  /** Judges a host that is an address itself: nobody looks those up. */
  refusalOfLiteral(host: string): RemoteFailure | undefined {
    const address = unbracketed(host);
    return isIP(address) === 0 || this.#own.has(address) ? undefined : this.#refusal(address, false);
  }

  /** For sockets: gives only addresses that may be connected to. */
  readonly lookup: LookupFunction = (host, options, callback) => {
    this.#resolve(host, { ...options, all: true }, (error, addresses) => {
      if (error) return callback(error, []);
      const isOwn = this.#own.has(host);
      if (isOwn) this.#ownKinds.set(host, new Set(addresses.map(({ address }) => kindOfAddress(address))));
      const permitted = addresses.filter(({ address }) => !this.#refusal(address, isOwn));
      const [first] = permitted;
      const refused = addresses.map(({ address }) => this.#refusal(address, isOwn)).find(Boolean);
      if (!first) callback(refused ?? new RemoteFailure("the host has no address"), []);
      else if (options.all) callback(null, permitted);
      else callback(null, first.address, first.family);
    });
  };

  #refusal(address: string, isOwn: boolean): RemoteFailure | undefined {
    const kind = kindOfAddress(address);
    if (kind === "public" || isListed(this.#allowed, address)) return undefined;
    if (kind !== "metadata" && (isOwn || [...this.#ownKinds.values()].some((kinds) => kinds.has(kind)))) return undefined;
    const what = isOwn ? "the registry's name stands for" : "a redirect or token endpoint leads to";
    return new RemoteFailure(`${what} a ${kind} address: list it in allowAddresses if that is meant`);
  }
}

function unbracketed(host: string): string {
  return host.startsWith("[") ? host.slice(1, -1) : host;
}
