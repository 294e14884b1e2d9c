import type { Awaitable } from "../core/awaitable.js";
import { RegistryError } from "../core/errors.js";
import { type Lookup, mapFound } from "../core/lookup.js";
import type { Page, PageRequest } from "../core/page.js";

/** Pages are read until one is full, since the next page must not begin after the name of something hidden. A million names are more than any list has that is capped. */
const pageLimit = 1000;
/** After a first page that was not enough, none smaller than this is read. */
const smallestPage = 1000;

/** A page of the items that pass. Its `next` is its own last item. */
export async function filterPage(
  request: PageRequest,
  list: (request: PageRequest) => Promise<Lookup<Page<string>>>,
  passes: (item: string) => Awaitable<boolean>,
): Promise<Lookup<Page<string>>> {
  const { limit } = request;
  const items: string[] = [];
  const warnings = new Set<string>();
  let { after } = request;
  for (let pages = 1; pages <= pageLimit; pages++) {
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
    if (after === undefined) return answer(undefined);
  }
  return {
    kind: "unavailable",
    error: new RegistryError("UNAVAILABLE", `too much of this list is hidden: ${pageLimit} pages of it were read for one`),
  };
}
