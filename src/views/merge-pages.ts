import { found, type Lookup, type Served } from "../core/lookup.js";
import type { Page } from "../core/page.js";

/** One member's part of a merged listing. */
export interface PagePart<T> {
  readonly member: string;
  readonly lookup: Lookup<Page<T>>;
}

/**
 * Joins sorted pages of several members into one sorted page without duplicates; of equal items the first member's is kept. Exact across pages: where a
 * member has more to give, nothing beyond what it has given so far is shown. Members that fail are told in a warning; `absent` when all are.
 */
export function mergePages<T>(parts: readonly PagePart<T>[], limit: number, keyOf: (item: T) => string, served: Served): Lookup<Page<T>> {
  const warnings: string[] = [];
  const merged = new Map<string, T>();
  let bound: string | undefined;
  let answered = false;
  let failure: Lookup<Page<T>> | undefined;
  for (const { member, lookup } of parts) {
    if (lookup.kind === "denied" || lookup.kind === "unavailable") {
      failure ??= lookup;
      warnings.push(`${member} could not be listed: ${lookup.error.message}`);
    }
    if (lookup.kind !== "found") continue;
    answered = true;
    const { items, next } = lookup.value;
    warnings.push(...(lookup.value.warnings ?? []));
    for (const item of items) if (!merged.has(keyOf(item))) merged.set(keyOf(item), item);
    if (next !== undefined && (bound === undefined || next < bound)) bound = next;
  }
  if (!answered) return failure ?? { kind: "absent" };
  const keys = [...merged.keys()].filter((key) => bound === undefined || key <= bound).sort();
  const shown = keys.slice(0, limit);
  const more = bound !== undefined || keys.length > shown.length;
  const next = more && limit > 0 ? (shown.at(-1) ?? bound) : undefined;
  const items = shown.flatMap((key) => merged.get(key) ?? []);
  return found({ items, ...(next !== undefined && { next }), ...(warnings.length > 0 && { warnings }) }, served);
}
