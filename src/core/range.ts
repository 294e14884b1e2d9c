import { RegistryError } from "./errors.js";

/** A part of a blob as asked for: from `start` to `end` (inclusive, to the end when left out), or the `last` bytes. (RFC 9110 section 14.1.2) */
export type ByteRange = { readonly start: number; readonly end?: number } | { readonly last: number };

/** A range fitted to a blob of `total` bytes; both ends inclusive. */
export interface ResolvedRange {
  readonly start: number;
  readonly end: number;
  readonly total: number;
}

/** @throws RegistryError RANGE_INVALID when no byte of the blob lies in the range; its `detail.total` is the blob's size. */
export function resolveRange(range: ByteRange, total: number): ResolvedRange {
  const start = "last" in range ? Math.max(0, total - range.last) : range.start;
  const end = "last" in range ? total - 1 : Math.min(range.end ?? total - 1, total - 1);
  if (start > end || start < 0 || ("last" in range && range.last === 0)) {
    throw new RegistryError("RANGE_INVALID", `the range lies outside the blob's ${total} bytes`, { detail: { total } });
  }
  return { start, end, total };
}
