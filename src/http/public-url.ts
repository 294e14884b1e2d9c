import { RegistryError } from "../core/errors.js";
import type { WireHeaders, WireResponse } from "./exchange.js";
import { clientAddress, forwardedPrefix, type HeaderReader, isPathPrefix, type Trust, trustOf } from "./forwarded.js";

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

/** How a request came here. */
export interface Arrival {
  /** Who is at the other end of the connection. */
  readonly peer: string | undefined;
  /** The client's address, as the framework tells it. */
  readonly address: string | undefined;
  readonly header: HeaderReader;
}

/** What the proxies in front make of a request. */
export interface Front {
  /** `base` is what stands before `/v2/` for the client: nothing, a path or a URL. */
  arrived(arrival: Arrival): { readonly address: string | undefined; readonly base: string };
}

/** @throws RegistryError UNKNOWN for options that cannot be used. */
export function frontOf({ publicUrl, trustedProxies }: ProxyOptions): Front {
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
