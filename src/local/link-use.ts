import { lastUseOf, useGranularity } from "../core/last-use.js";
import type { Change, Condition, StoredRecord } from "../core/metadata-store.js";
import type { RecordKey, RecordTypes } from "../core/records.js";

type Link = RecordTypes["link"];

export function withoutMark({ condemned: _, ...link }: Link): Omit<Link, "condemned"> {
  return link;
}

/**
 * What has to be written down before somebody is told that a link is there; nothing in the usual case.
 *
 * @param relied whoever asks will not send the bytes: the link must then look used. Reading them only lifts a mark.
 */
export function useOf(
  key: RecordKey<"link">,
  { value, version }: StoredRecord<"link">,
  now: number,
  relied: boolean,
): { readonly conditions: readonly Condition[]; readonly changes: readonly Change[] } {
  const old = relied && now - lastUseOf(value) >= useGranularity;
  if (!old && !value.condemned) return { conditions: [], changes: [] };
  return { conditions: [{ key, is: "version", version }], changes: [{ put: key, value: { ...withoutMark(value), usedAt: now } }] };
}
