import { RegistryError } from "../core/errors.js";
import { absent, found, type Lookup } from "../core/lookup.js";
import { allPages, type Page, type PageRequest } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";
import type { PagePart } from "../views/merge-pages.js";

/** Names of registries that a catalog is made of at most: they are sorted in memory. */
const namesLimit = 100_000;

/** One route's names with its prefix, without those that a longer prefix takes. */
export async function listRoute(
  name: string,
  registry: Registry,
  page: PageRequest,
  isShown: (repository: string) => boolean,
  o?: CallOptions,
): Promise<PagePart<string>> {
  const prefix = `${name}/`;
  const { after, limit } = page;
  if (after !== undefined && after > prefix && !after.startsWith(prefix)) return { member: name, lookup: absent };
  const inner = after?.startsWith(prefix) ? after.slice(prefix.length) : undefined;
  const lookup = await registry.listRepositories({ limit, ...(inner && { after: inner }) }, o);
  if (lookup.kind !== "found") return { member: name, lookup };
  const { items, next, warnings } = lookup.value;
  const shown: Page<string> = {
    items: items.map((item) => prefix + item).filter(isShown),
    ...(next !== undefined && { next: prefix + next }),
    ...(warnings && { warnings }),
  };
  return { member: name, lookup: { ...lookup, value: shown } };
}

/** What a catalog over registries that a function answers needs of the routes. */
export interface FoundRoutes {
  names(page: PageRequest, o?: CallOptions): Promise<Page<string>>;
  find(name: string): Promise<Registry | undefined>;
  isShown(repository: string): boolean;
}

/** The repositories of registries that only a function knows, one registry after the other until the page is full. */
export async function listFound(routes: FoundRoutes, page: PageRequest, o?: CallOptions): Promise<PagePart<string>> {
  const { after, limit } = page;
  const items: string[] = [];
  const warnings: string[] = [];
  const answer = (next?: string): PagePart<string> => ({
    member: "routes",
    lookup: found({ items, ...(next !== undefined && { next }), ...(warnings.length > 0 && { warnings }) }, { member: [] }),
  });
  try {
    for (const prefix of await prefixes(routes, warnings, o)) {
      if (after !== undefined && after > prefix && !after.startsWith(prefix)) continue;
      const name = prefix.slice(0, -1);
      const registry = await routes.find(name);
      if (!registry) continue;
      let from = after;
      do {
        const { lookup } = await listRoute(name, registry, { limit, ...(from !== undefined && { after: from }) }, routes.isShown, o);
        from = tell(name, lookup, items, warnings);
      } while (from !== undefined && items.length <= limit);
      // One more than wanted tells that there is a next page.
      if (items.length > limit) {
        items.length = limit;
        return answer(items.at(-1) ?? prefix);
      }
    }
    return answer();
  } catch (cause) {
    if (o?.signal?.aborted) throw cause;
    return {
      member: "routes",
      lookup: { kind: "unavailable", error: new RegistryError("UNAVAILABLE", "names could not be listed", { cause }) },
    };
  }
}

/** Takes in one page and answers where the next begins. */
function tell(name: string, lookup: Lookup<Page<string>>, items: string[], warnings: string[]): string | undefined {
  if (lookup.kind === "denied" || lookup.kind === "unavailable")
    warnings.push(`this list is not complete: ${name} could not be listed: ${lookup.error.message}`);
  if (lookup.kind !== "found") return undefined;
  items.push(...lookup.value.items);
  warnings.push(...(lookup.value.warnings ?? []));
  return lookup.value.next;
}

/** In the order of the repositories below them, which is another than that of the names: "a-b/x" comes before "a/x". */
async function prefixes(routes: FoundRoutes, warnings: string[], o?: CallOptions): Promise<string[]> {
  const all = new Set<string>();
  for await (const name of allPages((page) => routes.names(page, o))) {
    all.add(`${name}/`);
    if (all.size < namesLimit) continue;
    warnings.push(`only the first ${namesLimit} registries were listed`);
    break;
  }
  return [...all].sort();
}
