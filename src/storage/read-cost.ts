import type { RecordKind } from "../core/records.js";

/** What reads from memory or from a database in this process cost, in the units of the turn budget (about 10 µs on a small machine). */
export const readUnits = {
  /** A record or a page of names that is in memory. */
  known: 0.2,
  /** A record from the database. */
  record: 1,
  /** A row of a page, or one that is written. */
  row: 0.4,
  /** A name of a page of names. */
  name: 0.05,
};

/** Rows that are read without a pause: a page of so many is one moment of the database. */
const sliceRows = 500;
/** Of records that hold what clients sent, which may be a thousand times as large as others. */
const largeRows = 50;
const large: ReadonlySet<RecordKind> = new Set(["referrer", "referrerByType", "upload"]);
/** Names that are read without a pause. */
const sliceNames = 4000;

/** What a large record costs beside what every read costs: bytes are copied. */
export function unitsToCopy(bytes: number): number {
  return bytes / 8192;
}

/** What values cost to parse, beside what every read costs: they are of JSON. */
export function unitsToParse(characters: number): number {
  return characters / 1024;
}

/** Part of a range. `last`: the whole key of its last item. */
interface Slice<T> {
  readonly items: readonly T[];
  readonly last: string | undefined;
}

/**
 * A range, however long, in slices that are short enough for one turn of the event loop. `read` answers at most `limit` items whose keys are `start` or greater, and first
 * accounts for `units`.
 *
 * @param from the first key.
 * @param unitsEach what an item costs.
 */
export async function inSlices<T>(
  range: { readonly kind: RecordKind; readonly limit: number },
  from: string,
  unitsEach: number,
  read: (start: string, limit: number, units: number) => Promise<Slice<T>>,
): Promise<readonly T[]> {
  const most = Math.max(0, range.limit);
  const atOnce = unitsEach < readUnits.row ? sliceNames : large.has(range.kind) ? largeRows : sliceRows;
  const slice = (start: string, limit: number) => read(start, limit, readUnits.record + limit * unitsEach);
  const first = await slice(from, Math.min(most, atOnce));
  if (most <= atOnce || first.items.length < atOnce) return first.items;
  const items = [...first.items];
  for (let { last } = first; last !== undefined && items.length < most; ) {
    const limit = Math.min(most - items.length, atOnce);
    // No part holds a control character: this is greater than the last key and not greater than any that follows it.
    const next = await slice(`${last}\u0001`, limit);
    for (const item of next.items) items.push(item);
    last = next.items.length < limit ? undefined : next.last;
  }
  return items;
}
