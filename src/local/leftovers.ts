import type { Change, Condition, MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";

/** Bytes that were made durable longer ago cannot be recorded any more. Milliseconds. */
export const recordedWithin = 12 * 3_600_000;
/** So nobody can still be about to record them when this is forgotten. */
const remembered = 2 * recordedWithin;

const keyOf = (location: string) => recordKey.lease("leftover", location);

/**
 * That nobody has taken committed bytes for a leftover: a condition of every commit that first records where they are. A collection sees no record of a location that
 * is about to be written, and could not be stopped by one.
 */
export function notLeftover(location: string): Condition {
  return { key: keyOf(location), is: "absent" };
}

/**
 * From now on nobody can record this location. Whether somebody has done so before is to be looked at afterwards.
 * @param holder who is about to delete it.
 */
export function leftover(location: string, now: number, holder: string): Change {
  return { put: keyOf(location), value: { holder, expiresAt: now + remembered } };
}

/** For the holder who finds that the bytes are wanted after all: what its record of them is conditional on, and the end of its mark. `undefined` once another has it. */
export async function leftoverOf(
  metadata: MetadataStore,
  location: string,
  holder: string,
): Promise<{ readonly condition: Condition; readonly end: Change } | undefined> {
  const key = keyOf(location);
  const mark = await metadata.get(key);
  if (mark?.value.holder !== holder) return undefined;
  return { condition: { key, is: "version", version: mark.version }, end: { remove: key } };
}
