import type { RecordTypes } from "./records.js";

// A blob reference (stored: `link`) is a repository's claim to a blob. What the layers have to agree on about one, beside its record.

/**
 * A record of last use is rewritten only when it is older than this: a hit must not cost a write. In milliseconds. Who goes by it must wait for at least
 * twice as long before taking something for unused.
 */
export const useGranularity = 60 * 60_000;

/** When somebody last came to rely on a blob reference, as far as its record tells. */
export function lastUseOf({ linkedAt, usedAt = 0 }: RecordTypes["link"]): number {
  return Math.max(linkedAt, usedAt);
}

/** What a blob reference says of the blob. */
export type ReferenceValue = Pick<RecordTypes["link"], "size" | "expectedSize" | "origin">;

/** What is known of a referenced blob's size: that of verified bytes, else what a manifest says. */
export function expectedSizeOf({ size, expectedSize }: ReferenceValue): number | undefined {
  return size ?? expectedSize;
}
