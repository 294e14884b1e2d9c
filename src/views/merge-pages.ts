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
  const sources: Head<T>[] = [];
  let bound: string | undefined;
  let failure: Lookup<Page<T>> | undefined;
  for (const { member, lookup } of parts) {
    if (lookup.kind === "denied" || lookup.kind === "unavailable") {
      failure ??= lookup;
      warnings.push(`this list is not complete: ${member} could not be listed: ${lookup.error.message}`);
    }
    if (lookup.kind !== "found") continue;
    const { items, next } = lookup.value;
    warnings.push(...(lookup.value.warnings ?? []));
    sources.push(new Head(items, keyOf));
    if (next !== undefined && (bound === undefined || next < bound)) bound = next;
  }
  if (sources.length === 0) return failure ?? { kind: "absent" };
  const items: T[] = [];
  let last: string | undefined;
  let cut = false;
  for (let head = lowest(sources); head && (bound === undefined || head.key <= bound); head = lowest(sources)) {
    if (head.key !== last) {
      cut = items.length >= limit;
      if (cut) break;
      last = head.key;
      items.push(head.item);
    }
    head.source.advance();
  }
  // All up to the bound is shown: what comes next comes after it, also where this page shows nothing.
  const next = limit === 0 ? undefined : cut ? last : bound;
  return found({ items, ...(next !== undefined && { next }), ...(warnings.length > 0 && { warnings }) }, served);
}

/** One member's page, and how far it is read. */
class Head<T> {
  readonly #items: readonly T[];
  readonly #keyOf: (item: T) => string;
  #at = 0;

  constructor(items: readonly T[], keyOf: (item: T) => string) {
    this.#keyOf = keyOf;
    const sorted = items.every((item, index) => {
      const before = items[index - 1];
      return index === 0 || before === undefined || keyOf(before) <= keyOf(item);
    });
    // A host's own registry may not keep the order of its own page.
    this.#items = sorted ? items : [...items].sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
  }

  get item(): { readonly item: T; readonly key: string } | undefined {
    const item = this.#items[this.#at];
    return this.#at < this.#items.length ? { item: item as T, key: this.#keyOf(item as T) } : undefined;
  }

  advance(): void {
    this.#at++;
  }
}

function lowest<T>(sources: readonly Head<T>[]): { readonly source: Head<T>; readonly item: T; readonly key: string } | undefined {
  let best: { readonly source: Head<T>; readonly item: T; readonly key: string } | undefined;
  for (const source of sources) {
    const head = source.item;
    // Strictly lower: of equal items the first member's is kept.
    if (head && (best === undefined || head.key < best.key)) best = { source, ...head };
  }
  return best;
}
