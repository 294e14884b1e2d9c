/**
 * The headers of requests and responses that have a grammar of their own, one function each: content types of manifests, warnings, conditions, cache status, ranges of blobs.
 * Those of uploads are in `uploads.ts`.
 */
import type { Descriptor } from "../core/descriptor.js";
import type { Served } from "../core/lookup.js";
import { isManifestType } from "../core/manifest.js";
import { isMediaType, mediaTypes } from "../core/media-types.js";
import { type ByteRange, type ResolvedRange, resolveRange } from "../core/range.js";
import type { WireHeaders } from "./exchange.js";

/**
 * The headers that tell of a manifest's type. An upstream's may be anything: what a browser could render or run (`application/xhtml+xml`, `application/javascript`) goes out as a
 * file to be saved, and what is no plain `application/…` without its type.
 */
export function manifestTypeHeaders({ mediaType }: Descriptor): WireHeaders {
  const isPlain = mediaType.startsWith("application/") && isMediaType(mediaType);
  const type = { "Content-Type": isPlain ? mediaType : mediaTypes.octetStream };
  if (isManifestType(mediaType) || (isPlain && /^[^;]*\+json(?:;|$)/i.test(mediaType))) return type;
  return { ...type, "Content-Security-Policy": "sandbox; default-src 'none'", "Content-Disposition": "attachment" };
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

/** podman asks for up to some 600 parts of a layer in zstd:chunked. Many more are a way to make a server work (RFC 9110 section 14.2). */
const rangeLimit = 1024;

/**
 * Reads a Range header. `undefined` means the whole blob: no header, another unit, nothing legible, or too many ranges. A reversed range is passed on,
 * to be refused with the blob's size.
 */
export function parseRanges(header: string | undefined): [ByteRange, ...ByteRange[]] | undefined {
  const set = /^bytes=(.*)$/i.exec(header ?? "")?.[1];
  if (set === undefined) return undefined;
  const parts = set.split(",");
  const [first, ...more] = parts.map(parseRange);
  if (!first || parts.length > rangeLimit) return undefined;
  const rest = more.filter((range) => range !== undefined);
  return rest.length === more.length ? [first, ...rest] : undefined;
}

function parseRange(text: string): ByteRange | undefined {
  // Split before it is matched: optional spaces around optional digits could be matched in as many ways as there are spaces.
  const [first, last, ...more] = text.split("-").map((part) => part.trim());
  if (first === undefined || last === undefined || more.length > 0 || !/^\d*$/.test(first + last)) return undefined;
  if (first === "") return last === "" ? undefined : { last: safeNumber(last) };
  return last === "" ? { start: safeNumber(first) } : { start: safeNumber(first), end: safeNumber(last) };
}

/**
 * Fits several ranges to a blob. Those outside of it are left out; `whole` when what is left overlaps, which asks for some bytes twice.
 * @throws RegistryError RANGE_INVALID when all lie outside.
 */
export function resolveRanges(ranges: readonly ByteRange[], total: number): readonly ResolvedRange[] | "whole" {
  const resolved: ResolvedRange[] = [];
  let refused: unknown;
  for (const range of ranges) {
    try {
      resolved.push(resolveRange(range, total));
    } catch (error) {
      refused = error;
    }
  }
  if (resolved.length === 0) throw refused;
  const sorted = [...resolved].sort((a, b) => a.start - b.start);
  return sorted.some(({ start }, index) => start <= (sorted[index - 1]?.end ?? -1)) ? "whole" : resolved;
}

function safeNumber(digits: string): number {
  return Math.min(Number(digits), Number.MAX_SAFE_INTEGER);
}
