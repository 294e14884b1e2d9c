import { RegistryError } from "../core/errors.js";
import type { RuntimeOptions } from "../core/events.js";
import type { ConnectionOptions } from "./connections.js";
import { type CredentialSource, isCredentials } from "./credentials.js";
import type { UpstreamLimits } from "./limits/upstream-limits.js";
import type { RemoteTimeouts } from "./transport.js";

/** How a remote registry is reached. */
export interface RemoteOptions extends RuntimeOptions, UpstreamLimits, ConnectionOptions {
  /** What it is called in answers (`served.member`) and messages. Default: the URL's host. */
  readonly name?: string;
  /** Absent: anonymous. They are sent only to the registry's own origin (Basic) and to its token endpoint (Bearer), where that is on its host by https or in `realmHosts`. */
  readonly credentials?: CredentialSource;
  /**
   * Hosts, beside the registry's own, whose token endpoints get the credentials: `"auth.example"` for any port, or with one. Default: none. Others that its challenges name are asked
   * anonymously. Always https, unless the registry itself is http.
   */
  readonly realmHosts?: readonly string[];
  /**
   * Default true: every write throws UNSUPPORTED. False: pushes and deletes go to the upstream, for everyone who may write here, with these credentials.
   */
  readonly readOnly?: boolean;
  /** Default `"oci-manifold"`. */
  readonly userAgent?: string;
  readonly timeouts?: RemoteTimeouts;
}

/** What a preset of a vendor takes: it knows the hosts of its token endpoints. */
export type VendorOptions = Omit<RemoteOptions, "realmHosts">;

/** A registry's URL, from that or from its host, such as `registry.example:5000`. */
export function urlOf(registry: string): string {
  return registry.includes("://") ? registry : `https://${registry}`;
}

/**
 * Reads a registry's URL: scheme, host and port.
 * @throws RegistryError UNKNOWN for anything else. The message does not repeat the URL: people put passwords into it.
 */
export function parseBaseUrl(text: string): URL {
  if (!URL.canParse(text)) throw misconfigured('the URL of a remote registry must be absolute, such as "https://registry.example"');
  const url = new URL(text);
  if (url.protocol !== "https:" && url.protocol !== "http:")
    throw misconfigured("the URL of a remote registry must begin with https:// or http://");
  if (url.username || url.password)
    throw misconfigured("credentials do not belong in the URL of a remote registry: use the option credentials");
  if (url.pathname !== "/" || url.search || url.hash) {
    throw misconfigured("the URL of a remote registry has no path: /v2/ is added, and a prefix is part of the repository names");
  }
  return url;
}

/** The URLs of one registry, the preferred one first. @throws RegistryError UNKNOWN for none, one that cannot be, or one twice. */
export function parseBaseUrls(texts: string | readonly string[]): readonly [URL, ...URL[]] {
  const [first, ...more] = (typeof texts === "string" ? [texts] : texts).map(parseBaseUrl);
  if (!first) throw misconfigured("a remote registry needs a URL");
  const urls: readonly [URL, ...URL[]] = [first, ...more];
  if (new Set(urls.map(({ origin }) => origin)).size < urls.length) throw misconfigured("a URL of a remote registry is given twice");
  return urls;
}

/** @throws RegistryError UNKNOWN for options that TypeScript would not let through, or a header value that cannot be sent. */
export function checkOptions({ credentials, userAgent, realmHosts }: RemoteOptions): void {
  if (credentials !== undefined && typeof credentials !== "function" && !isCredentials(credentials)) {
    throw misconfigured("credentials must be { username, password }, { identityToken } or a function that answers one of them");
  }
  if (userAgent !== undefined && !/^[\x20-\x7e]+$/.test(userAgent)) throw misconfigured("userAgent must be printable ASCII");
  if (realmHosts?.some((host) => /[/\s]/.test(host))) throw misconfigured('realmHosts are hosts, such as "auth.example", not URLs');
}

function misconfigured(message: string): RegistryError {
  return new RegistryError("UNKNOWN", message);
}
