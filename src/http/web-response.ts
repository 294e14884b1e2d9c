import type { WireHeaders, WireResponse } from "./exchange.js";

/**
 * A Web `Response` whose bytes, where it has any, are all there.
 *
 * @throws TypeError for a header that the platform refuses.
 */
export function webResponse({ status, headers, body }: WireResponse): Response {
  return new Response(body?.kind === "bytes" ? body.bytes : null, { status, headers: webHeaders(headers) });
}

/** @throws TypeError for a header that the platform refuses. */
export function webHeaders(headers: WireHeaders): Headers {
  const web = new Headers();
  for (const [name, value] of Object.entries(headers)) {
    // The connection is the runtime's, and may be HTTP/2, where this header is forbidden (RFC 9113 section 8.2.2).
    if (name === "Connection") continue;
    for (const line of typeof value === "string" ? [value] : value) web.append(name, line);
  }
  return web;
}
