import type { Awaitable } from "../core/awaitable.js";
import { type Lookup, mapFound } from "../core/lookup.js";
import type { Page, PageRequest } from "../core/page.js";

/** Pages read for one page: where almost everything is hidden, the caller is told how to go on rather than kept waiting. */
const pageLimit = 20;
/** After a page that was too full of hidden items, no smaller ones are read than this. */
const smallestPage = 100;

/**
 * A page of what passes. Its `next` goes on behind what was read: a page may be short, or empty, and not the last.
 */
export async function sieved(
  request: PageRequest,
  list: (request: PageRequest) => Promise<Lookup<Page<string>>>,
  passes: (item: string) => Awaitable<boolean>,
): Promise<Lookup<Page<string>>> {
  const { limit } = request;
  const items: string[] = [];
  const warnings = new Set<string>();
  let { after } = request;
  for (let pages = 1; ; pages++) {
    const lookup = await list({ limit: pages === 1 ? limit : Math.max(limit, smallestPage), ...(after !== undefined && { after }) });
    if (lookup.kind !== "found") return lookup;
    const page = lookup.value;
    for (const warning of page.warnings ?? []) warnings.add(warning);
    const answer = (next: string | undefined): Lookup<Page<string>> =>
      mapFound(lookup, () => ({ items, ...(next !== undefined && { next }), ...(warnings.size > 0 && { warnings: [...warnings] }) }));
    if (limit === 0) return answer(undefined);
    const verdicts = await Promise.all(page.items.map(passes));
    for (const [index, item] of page.items.entries()) {
      if (verdicts[index] !== true) continue;
      if (items.length === limit) return answer(items.at(-1));
      items.push(item);
    }
    after = page.next;
    if (after === undefined || items.length === limit || pages === pageLimit) return answer(after);
  }
}
