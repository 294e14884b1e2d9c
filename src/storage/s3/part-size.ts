const MiB = 2 ** 20;

/** S3 allows 10,000 parts of an upload. */
export const mostParts = 10_000;
const smallest = 8 * MiB;
/** Below that, parts of one size: Cloudflare R2 refuses others, and 1,000 of them hold any usual layer. */
const firstStep = 1000;
const step = 500;
const largest = 800 * MiB;
const mostInFlight = 4;
const bytesInFlight = 64 * MiB;

/** How large a part with this number is, from 1: 10,000 of them hold the 5 TiB that an object may have, and small layers need little memory. */
export function partSize(number: number): number {
  const doublings = Math.ceil(Math.max(0, number - firstStep) / step);
  return Math.min(largest, smallest * 2 ** doublings);
}

/** How many parts of this size may be on their way at a time. */
export function partsInFlight(size: number): number {
  return Math.max(1, Math.min(mostInFlight, Math.floor(bytesInFlight / size)));
}
