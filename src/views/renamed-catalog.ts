import { LRUCache } from "lru-cache";
import type { NameMapping } from "../core/connector.js";
import { found, type Lookup, mapFound } from "../core/lookup.js";
import { allPages, type Page, type PageRequest } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";

/** A catalog under other names must be sorted anew, in memory. More names than this are cut off, with a warning. */
const sortLimit = 1_000_000;
/** The pages of one reading come from one sorted catalog: it is kept so long (in milliseconds), and for so many callers. */
const keptFor = 60_000;
const keptCatalogs = 4;

/** The catalog of a registry, under our names. */
type RenamedCatalog = (request: PageRequest, o?: CallOptions) => Promise<Lookup<Page<string>>>;

export function renamedCatalog(registry: Registry, mapping: NameMapping): RenamedCatalog {
  const { prefixes } = mapping;
  return prefixes ? (request, o) => listBelow(registry, prefixes, request, o) : sortedCatalog(registry, mapping);
}

/** With one prefix for another the order stays as it is: one page there is one page here. */
async function listBelow(
  registry: Registry,
  { ours, theirs }: NonNullable<NameMapping["prefixes"]>,
  { after, limit }: PageRequest,
  o?: CallOptions,
): Promise<Lookup<Page<string>>> {
  if (after !== undefined && after > ours && !after.startsWith(ours)) return found({ items: [] }, { member: [] });
  const start = after?.startsWith(ours) ? theirs + after.slice(ours.length) : theirs;
  const lookup = await registry.listRepositories({ limit, ...(start !== "" && { after: start }) }, o);
  return mapFound(lookup, ({ items, next, warnings }) => {
    const below = items.filter((name) => name.startsWith(theirs) && name.length > theirs.length);
    const more = next?.startsWith(theirs) ? ours + next.slice(theirs.length) : undefined;
    return {
      items: below.map((name) => ours + name.slice(theirs.length)),
      ...(more !== undefined && { next: more }),
      ...(warnings && { warnings }),
    };
  });
}

type FoundNames = Extract<Lookup<{ readonly names: readonly string[]; readonly warnings: readonly string[] }>, { kind: "found" }>;

function sortedCatalog(registry: Registry, mapping: NameMapping): RenamedCatalog {
  const kept = new LRUCache<string, FoundNames>({ max: keptCatalogs, ttl: keptFor });
  return async (request, o) => {
    const { after, limit } = request;
    // What is listed may depend on who asks.
    const key = JSON.stringify(o?.caller?.name ?? null);
    const sorted = (after === undefined ? undefined : kept.get(key)) ?? (await readSorted(registry, mapping, o));
    if (sorted.kind !== "found") return sorted;
    const { names, warnings } = sorted.value;
    const start = after === undefined ? 0 : firstAfter(names, after);
    const items = names.slice(start, start + limit);
    const next = start + limit < names.length ? items.at(-1) : undefined;
    if (next === undefined) kept.delete(key);
    else kept.set(key, sorted);
    return mapFound(sorted, () => ({ items, ...(next !== undefined && { next }), ...(warnings.length > 0 && { warnings }) }));
  };
}

async function readSorted(
  registry: Registry,
  mapping: NameMapping,
  o?: CallOptions,
): Promise<FoundNames | Exclude<Lookup<never>, { kind: "found" }>> {
  const first = await registry.listRepositories({ limit: 1000 }, o);
  if (first.kind !== "found") return first;
  const names = new Set<string>();
  const warnings = [...(first.value.warnings ?? [])];
  const list = async (page: PageRequest): Promise<Page<string>> => {
    if (page.after === undefined) return first.value;
    const next = await registry.listRepositories(page, o);
    if (next.kind === "found") return next.value;
    warnings.push("the catalog could not be read to its end");
    return { items: [] };
  };
  for await (const name of allPages(list)) {
    const ours = mapping.fromSource(name);
    if (ours !== undefined) names.add(ours);
    if (names.size >= sortLimit) {
      warnings.push(`only the first ${sortLimit} names of the catalog were read`);
      break;
    }
  }
  // Names hold only ASCII: the default order is that of their bytes.
  return { ...first, value: { names: [...names].sort(), warnings } };
}

/** The index of the first name that comes after this one. */
function firstAfter(names: readonly string[], after: string): number {
  let low = 0;
  let high = names.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((names[middle] ?? "") <= after) low = middle + 1;
    else high = middle;
  }
  return low;
}
