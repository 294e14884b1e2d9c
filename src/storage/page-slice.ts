import type { Page } from "../core/page.js";

/** A page from up to `limit + 1` items in order: the one too many only says that there is more. */
export function pageOf<T>(items: readonly T[], limit: number, name: (item: T) => string): Page<T> {
  if (items.length <= limit) return { items };
  const kept = items.slice(0, Math.max(0, limit));
  const last = kept.at(-1);
  return last === undefined ? { items: kept } : { items: kept, next: name(last) };
}
