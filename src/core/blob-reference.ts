import type { RecordTypes } from "./records.js";

/**
 * A record of last use is rewritten only when it is older than this: a hit must not cost a write. In milliseconds. What counts uses must wait for at least
 * twice as long before it takes something for unused.
 */
export const useGranularity = 60 * 60_000;

/** When somebody last came to rely on a claim, as far as its record tells. */
export function lastUseOf({ linkedAt, usedAt = 0 }: RecordTypes["link"]): number {
  return Math.max(linkedAt, usedAt);
}

export type LinkValue = Pick<RecordTypes["link"], "size" | "expectedSize" | "origin">;

/** What is known of the size of a claim's bytes: that of verified bytes, else what a manifest says. */
export function expectedSizeOf({ size, expectedSize }: LinkValue): number | undefined {
  return size ?? expectedSize;
}
