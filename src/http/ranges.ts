import { type ByteRange, type ResolvedRange, resolveRange } from "../core/range.js";

/** More parts than any client asks for; a request for many small ones is a way to make a server work (RFC 9110 section 14.2). */
const rangeLimit = 16;

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

/** The Content-Range of an upload's part, which is the specification's own and has neither unit nor total: `0-1023`. `undefined` when malformed. */
export function parseUploadRange(header: string): { start: number; length: number } | undefined {
  const match = /^(\d+)-(\d+)$/.exec(header);
  if (!match) return undefined;
  const start = Number(match[1]);
  const end = Number(match[2]);
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || end < start) return undefined;
  return { start, length: end - start + 1 };
}

/** The Range header of an upload session. An empty one says `0-0`, as docker's own registry does. */
export function uploadRange(offset: number): string {
  return `0-${Math.max(0, offset - 1)}`;
}

function safeNumber(digits: string): number {
  return Math.min(Number(digits), Number.MAX_SAFE_INTEGER);
}
