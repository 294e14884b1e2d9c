import type { ByteRange } from "../core/range.js";

/**
 * Reads a Range header. `undefined` means the whole blob: no header, another unit, nothing legible, or several ranges, which a server may answer in
 * full (RFC 9110 section 14.2) and must not answer with one part. A reversed range is passed on, to be refused with the blob's size.
 */
export function parseRange(header: string | undefined): ByteRange | undefined {
  if (header === undefined) return undefined;
  const match = /^bytes=\s*(\d*)\s*-\s*(\d*)\s*$/i.exec(header);
  if (!match) return undefined;
  const [, first = "", last = ""] = match;
  if (first === "") return last === "" ? undefined : { last: safeNumber(last) };
  return last === "" ? { start: safeNumber(first) } : { start: safeNumber(first), end: safeNumber(last) };
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
