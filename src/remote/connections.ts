import * as tls from "node:tls";
import { buildConnector } from "undici";
import { RegistryError } from "../core/errors.js";
import { AddressGuard } from "./address-guard.js";
import { chooseProxy } from "./proxies.js";
import { openTunnel } from "./tunnel.js";

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
   * the registry's own. Behind a proxy only addresses in URLs are judged, since the proxy resolves the names.
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
    const code = error instanceof Error && "code" in error ? ` (${error.code})` : "";
    throw new RegistryError("UNKNOWN", `the certificates or the key in tls could not be read${code}`);
  }
}

function defined<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}
