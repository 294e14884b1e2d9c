import type { Descriptor } from "../core/descriptor.js";
import type { Served } from "../core/lookup.js";
import { isMediaType, mediaTypes } from "../core/media-types.js";
import type { WireHeaders, WireResponse } from "./exchange.js";

/** Docker's clients look for it on `/v2/` to tell a registry from any other server. */
export const apiVersion = "registry/2.0";
/** Express's `compression` would otherwise compress manifests and drop their Content-Length. */
export const untransformed = "no-transform";

/** The headers that every response has. */
function baseHeaders(): WireHeaders {
  return { "Docker-Distribution-API-Version": apiVersion, "Cache-Control": untransformed };
}

/** A response without a body. 204 and 304 must not name a length, everything else must. */
export function emptyResponse(status: number, more: WireHeaders): WireResponse {
  const headers = Object.assign(baseHeaders(), more);
  if (status !== 204 && status !== 304) headers["Content-Length"] = "0";
  return { status, headers };
}

export function jsonResponse(status: number, value: unknown, o: { head: boolean; contentType?: string; more?: WireHeaders }): WireResponse {
  return jsonTextResponse(status, JSON.stringify(value), o);
}

/** @param text is JSON already. */
export function jsonTextResponse(
  status: number,
  text: string,
  o: { head: boolean; contentType?: string; more?: WireHeaders },
): WireResponse {
  const bytes = Buffer.from(text);
  const headers = Object.assign(baseHeaders(), o.more);
  headers["Content-Type"] = o.contentType ?? "application/json";
  headers["Content-Length"] = String(bytes.byteLength);
  return o.head ? { status, headers } : { status, headers, body: { kind: "bytes", bytes } };
}

/**
 * The type a manifest goes out with. An upstream's may be anything: what is not a plain `application/…` could be rendered or run by a browser.
 */
export function safeManifestType({ mediaType }: Descriptor): string {
  return mediaType.startsWith("application/") && isMediaType(mediaType) ? mediaType : mediaTypes.octetStream;
}

/** distribution-spec, "Warnings": all of them together. */
const warningLimit = 4096;

/** Adds `Warning: 299 - "text"` for each warning, as many as the limit lets through. */
export function addWarnings(headers: WireHeaders, warnings: readonly string[] | undefined): void {
  if (!warnings || warnings.length === 0) return;
  const lines: string[] = [];
  let left = warningLimit;
  for (const warning of warnings) {
    const text = warning.replace(/[^\x20-\x7e]+/g, "?").replace(/["\\]/g, "\\$&");
    const line = `299 - "${text}"`;
    left -= line.length;
    if (left < 0) break;
    lines.push(line);
  }
  if (lines.length > 0) headers.Warning = lines;
}

/** The entity tags of an If-Match or If-None-Match header, without quotes; `*` stands for itself. Digests hold no commas. */
export function entityTags(header: string, comparison: "weak" | "strong"): string[] {
  const tags: string[] = [];
  for (const part of header.split(",")) {
    const match = /^(W\/)?"?([^"]*)"?$/.exec(part.trim());
    if (match?.[2] && (comparison === "weak" || !match[1])) tags.push(match[2]);
  }
  return tags;
}

/** Whether If-None-Match names what is there: the client has it already. */
export function isFresh(header: string | undefined, digest: string): boolean {
  if (header === undefined) return false;
  const tags = entityTags(header, "weak");
  return tags.includes(digest) || tags.includes("*");
}

/** Which cache answered, and how: `"prerelease/hub"; hit; ttl=240`. A negative ttl is that of a stale answer. (RFC 9211) */
export function cacheStatusOf({ member, cache, ttl }: Served): string | undefined {
  if (cache === undefined) return undefined;
  const name = `"${member
    .join("/")
    .replace(/[^\x20-\x7e]/g, "?")
    .replace(/["\\]/g, "\\$&")}"`;
  if (cache === "miss") return `${name}; fwd=miss`;
  return ttl === undefined ? `${name}; hit` : `${name}; hit; ttl=${Math.floor(ttl / 1000)}`;
}
