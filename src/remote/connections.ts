/**
 * The connections of one remote registry. `connectorFor` makes them: it checks where they lead (`AddressGuard`), chooses a proxy (`chooseProxy`) and opens a tunnel through that, and
 * secures them by the options `tls`. The client certificate and what else identifies the host application are for the registry's own hosts only.
 */
import { lookup as systemLookup } from "node:dns";
import { request as plainRequest } from "node:http";
import { request as secureRequest } from "node:https";
import { type BlockList, isIP, type LookupFunction, type Socket } from "node:net";
import * as tls from "node:tls";
import { buildConnector } from "undici/index.js";
import { RegistryError } from "../core/errors.js";
import { type AddressKind, addressList, isListed, kindOfAddress } from "../core/ip-addresses.js";
import { systemCode } from "../core/system-code.js";
import { basicAuthorization } from "./credentials.js";
import { RemoteFailure } from "./failures.js";

/** Text is PEM. */
export type Pem = string | Uint8Array;

/** How connections to an upstream are secured. */
export interface TlsOptions {
  /** Certificate authorities, PEM: trusted by this remote beside those of Node. */
  readonly ca?: Pem | readonly Pem[];
  /** The client certificate, PEM. It is shown to the registry's own hosts only, as everything below. */
  readonly cert?: Pem;
  /** The client certificate's key, PEM. */
  readonly key?: Pem;
  /** Opens the key. */
  readonly passphrase?: string;
  /** The name the registry's certificate is for, when it is reached by another. Default: the URL's host. */
  readonly servername?: string;
  /** Default true. False takes any certificate from the registry's own hosts: whoever is on the way may then read the credentials. */
  readonly rejectUnauthorized?: boolean;
}

/** How an upstream is connected to. */
export interface ConnectionOptions {
  /**
   * The URL of an HTTP proxy, with `user:password@` if it asks for them. Default `"environment"`: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, in upper or lower
   * case, read when the registry is made. False: none. `http://` upstreams are tunnelled too.
   */
  readonly proxy?: string | false;
  readonly tls?: TlsOptions;
  /**
   * Addresses or blocks (`"10.1.0.0/16"`) that redirects and token endpoints may lead to although they are not public. Default: those of the same kind as
   * the registry's own. Behind a proxy only addresses in URLs are checked, since the proxy resolves the names.
   */
  readonly allowAddresses?: readonly string[];
}

/**
 * Makes the connections of one remote registry.
 * @param own the registry's URLs.
 * @param timeout in milliseconds.
 * @throws RegistryError UNKNOWN for options that cannot work.
 */
export function connectorFor(options: ConnectionOptions, own: readonly URL[], timeout: number): buildConnector.connector {
  const guard = new AddressGuard(
    own.map(({ hostname }) => hostname),
    options.allowAddresses ?? [],
  );
  const proxyFor = chooseProxy(options.proxy ?? "environment");
  const { ca, cert, key, passphrase, servername, rejectUnauthorized } = options.tls ?? {};
  const trusted = ca === undefined ? undefined : trustBeside(ca);
  const common = { timeout, lookup: guard.lookup };
  const toOthers = buildConnector({ ...common, ...(trusted && { secureContext: contextOf({ ca: trusted }) }) });
  const identity = { ...(trusted && { ca: trusted }), ...defined({ cert, key, passphrase }) };
  const toOwn = buildConnector({
    ...common,
    ...(Object.keys(identity).length > 0 && { secureContext: contextOf(identity) }),
    ...defined({ servername, rejectUnauthorized }),
  });

  return (target, callback) => {
    const hostname = target.hostname.replace(/^\[(.*)\]$/, "$1");
    const refused = guard.refusalOfLiteral(hostname);
    if (refused) return callback(refused, null);
    const connect = guard.isOwn(hostname) ? toOwn : toOthers;
    const proxy = proxyFor({ ...target, hostname });
    if (!proxy) return connect(target, callback);
    openTunnel(proxy, { ...target, hostname }, timeout).then(
      (socket) => (target.protocol === "https:" ? connect({ ...target, httpSocket: socket }, callback) : callback(null, socket)),
      (error: Error) => callback(error, null),
    );
  };
}

/** Node's `ca` replaces what it trusts, which would end redirects to public storage. */
function trustBeside(ca: Pem | readonly Pem[]): Buffer[] {
  const more = typeof ca === "string" || ca instanceof Uint8Array ? [ca] : ca;
  // From Node 22.15, with what NODE_EXTRA_CA_CERTS names; before, only those that Node brings.
  const { getCACertificates } = tls as { getCACertificates?: (type: "default") => readonly string[] };
  return [...(getCACertificates?.("default") ?? tls.rootCertificates), ...more].map((one) => Buffer.from(one));
}

/** Made once: reading some 150 authorities takes milliseconds, for every connection otherwise. */
function contextOf(options: { ca?: Buffer[]; cert?: Pem; key?: Pem; passphrase?: string }): tls.SecureContext {
  const { cert, key, ...rest } = options;
  try {
    return tls.createSecureContext({ ...rest, ...(cert && { cert: Buffer.from(cert) }), ...(key && { key: Buffer.from(key) }) });
  } catch (error) {
    const code = systemCode(error);
    throw new RegistryError("UNKNOWN", `the certificates or the key in tls could not be read${code === undefined ? "" : ` (${code})`}`);
  }
}

function defined<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}

/**
 * Keeps what an upstream names (token endpoints, targets of redirects) from leading into the host's own network. Addresses are checked when a connection is
 * made, as the name resolves at that moment, so a name that resolves to another address after a check gains nothing.
 *
 * The registry's own hosts are written by the host application, so they may be anywhere, except where a name resolves to a cloud's metadata service. A
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
    this.#allowed = addressList(allowed, "allowAddresses");
    this.#resolve = resolve;
    for (const host of this.#own) if (isIP(host)) this.#ownKinds.set(host, new Set([kindOfAddress(host)]));
  }

  isOwn(host: string): boolean {
    return this.#own.has(unbracketed(host));
  }

  /** Checks a host that is an address itself, which no resolver sees. */
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
    const what = isOwn ? "the registry's name resolves to" : "a redirect or token endpoint leads to";
    return new RemoteFailure(`${what} a ${kind} address: list it in allowAddresses if that is meant`);
  }
}

function unbracketed(host: string): string {
  return host.startsWith("[") ? host.slice(1, -1) : host;
}

/** Where a connection is to lead. */
interface Target {
  readonly protocol: string;
  /** Without brackets. */
  readonly hostname: string;
  /** Absent: the scheme's. */
  readonly port?: string | undefined;
}

/** The proxy for a target, if there is one. */
type ProxyChoice = (target: Target) => URL | undefined;

/**
 * Reads the option `proxy`.
 * @throws RegistryError UNKNOWN for what is no URL of a proxy. The message does not repeat it: it may hold a password.
 */
export function chooseProxy(option: string | false, environment: NodeJS.ProcessEnv = process.env): ProxyChoice {
  if (option === false) return () => undefined;
  if (option === "environment") return fromEnvironment(environment);
  const proxy = readProxy(option, "the option proxy");
  return () => proxy;
}

/**
 * As Go's clients read it, docker among them: each scheme has its own variable, `NO_PROXY` holds names with their subdomains, addresses and
 * blocks, each with or without a port, and this machine is never asked for through a proxy.
 */
function fromEnvironment(environment: NodeJS.ProcessEnv): ProxyChoice {
  const read = (name: string) => {
    const text = environment[name.toLowerCase()] || environment[name];
    return text ? readProxy(text, name) : undefined;
  };
  const proxies = new Map([
    ["http:", read("HTTP_PROXY")],
    ["https:", read("HTTPS_PROXY")],
  ]);
  const exceptions = (environment.no_proxy || environment.NO_PROXY || "")
    .split(/[\s,]+/)
    .filter(Boolean)
    .map(readException);
  return (target) => {
    const { hostname, protocol } = target;
    const isHere = hostname === "localhost" || (isIP(hostname) !== 0 && kindOfAddress(hostname) === "loopback");
    return isHere || exceptions.some((exempts) => exempts(target)) ? undefined : proxies.get(protocol);
  };
}

function readException(entry: string): (target: Target) => boolean {
  if (entry === "*") return () => true;
  const bare = entry.replace(/^\[(.*)\]$/, "$1");
  const [, host = bare, port] = (isIP(bare) === 6 ? undefined : /^\[?(.+?)\]?:(\d+)$/.exec(entry)) ?? [];
  const isPort = (target: Target) => port === undefined || port === (target.port || (target.protocol === "https:" ? "443" : "80"));
  const block = readBlock(host);
  if (block) return (target) => isIP(target.hostname) !== 0 && isListed(block, target.hostname) && isPort(target);
  const name = host.toLowerCase().replace(/^\*\./, ".");
  // With a dot in front only what is below it.
  const [exact, below] = name.startsWith(".") ? [undefined, name] : [name, `.${name}`];
  return (target) => (target.hostname === exact || target.hostname.endsWith(below)) && isPort(target);
}

function readBlock(text: string): BlockList | undefined {
  try {
    return addressList([text]);
  } catch {
    return undefined;
  }
}

function readProxy(text: string, where: string): URL {
  const whole = text.includes("://") ? text : `http://${text}`;
  const url = URL.canParse(whole) ? new URL(whole) : undefined;
  if (!url || (url.protocol !== "http:" && url.protocol !== "https:") || !url.hostname) {
    throw new RegistryError("UNKNOWN", `${where} must be the URL of an HTTP proxy, such as "http://proxy.example:3128"`);
  }
  return url;
}

/**
 * A connection through a proxy, by CONNECT. Where it leads is not checked: the proxy resolves names, and decides.
 * @throws an error whose code says what went wrong, `ERR_PROXY_407` for a proxy that answers 407.
 */
function openTunnel(proxy: URL, target: Target, timeout: number): Promise<Socket> {
  const isSecure = proxy.protocol === "https:";
  const host = target.hostname.includes(":") ? `[${target.hostname}]` : target.hostname;
  const authority = `${host}:${target.port || (target.protocol === "https:" ? 443 : 80)}`;
  return new Promise((resolve, reject) => {
    const request = (isSecure ? secureRequest : plainRequest)({
      method: "CONNECT",
      host: proxy.hostname.replace(/^\[(.*)\]$/, "$1"),
      port: proxy.port || (isSecure ? 443 : 80),
      path: authority,
      headers: { host: authority, ...authorizationFor(proxy) },
      // A tunnel is a connection of its own: nothing to keep for others.
      agent: false,
    });
    const timer = setTimeout(() => request.destroy(failure("UND_ERR_CONNECT_TIMEOUT")), timeout);
    const settle = (answer: () => void) => {
      clearTimeout(timer);
      answer();
    };
    request.once("connect", ({ statusCode }, socket: Socket, head) => {
      if (statusCode === 200) {
        if (head.byteLength > 0) socket.unshift(head);
        return settle(() => resolve(socket));
      }
      socket.on("error", () => {}).destroy();
      settle(() => reject(failure(`ERR_PROXY_${statusCode}`)));
    });
    request.once("error", (error) => settle(() => reject(error)));
    request.end();
  });
}

function authorizationFor({ username, password }: URL): { "proxy-authorization"?: string } {
  if (!username && !password) return {};
  return { "proxy-authorization": basicAuthorization(decodeURIComponent(username), decodeURIComponent(password)) };
}

function failure(code: string): Error {
  return Object.assign(new Error("the proxy gave no connection"), { code });
}
