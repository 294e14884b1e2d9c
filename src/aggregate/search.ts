import type { Connector } from "../core/connector.js";
import { found } from "../core/lookup.js";
import { allPages, type Page, type PageRequest } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { isSearchable, type KnownName, type NameIndex, type SearchResult, type SearchSource } from "../core/search.js";
import type { PagePart } from "../views/merge-pages.js";
import type { Patterns } from "../views/patterns.js";
import { localName } from "./members.js";

/** Names of one member's catalog that a search reads at most. */
const catalogLimit = 10_000;

/** What search needs of a member. */
interface SearchedMember {
  readonly connector: Connector;
  /** Under the aggregate's names; `undefined` when the connector is never asked by name. */
  readonly byName: Registry | undefined;
  /** Over the source's names. */
  readonly patterns: Patterns;
}

/** What search needs of an aggregate. */
export interface SearchParts {
  readonly local: Registry;
  readonly index: NameIndex;
  readonly members: readonly SearchedMember[];
  /** Whether connectors are never asked for this name. */
  isReserved(repository: string): boolean;
}

/**
 * Finds repositories by a part of their names, in ASCII order: what is stored here, what members list, what was served through them before, and what their own
 * search services say. What could not be searched is told in warnings.
 *
 * @param page.after a name.
 */
export async function search(parts: SearchParts, text: string, page: PageRequest, o?: CallOptions): Promise<Page<SearchResult>> {
  const { after = "", limit } = page;
  const wanted = text.toLowerCase();
  const matches = (name: string) => name > after && name.toLowerCase().includes(wanted);
  const results = new Map<string, SearchResult>();
  const warnings: string[] = [];
  // Of the same name the first result is kept, as the first member answers; what a search service knows beside that is added.
  const add = (result: SearchResult) => {
    const { description, stars } = result;
    const more = { ...(description !== undefined && { description }), ...(stars !== undefined && { stars }) };
    results.set(result.repository, { ...result, ...more, ...results.get(result.repository) });
  };
  for (const repository of await catalog(localName, parts.local, warnings, o))
    if (matches(repository)) add({ repository, member: localName, cached: true });
  const known = new Map<string, KnownName>();
  for await (const one of allPages((request) => parts.index.list(request))) if (matches(one.repository)) known.set(one.repository, one);
  for (const member of parts.members) {
    const { connector, byName } = member;
    if (!byName) continue;
    const { name, source } = connector;
    const isShown = shownBy(parts, member);
    const isCache = source.identity?.startsWith("cache ") === true;
    const service = isSearchable(source) ? source.search : undefined;
    const listed = service ? [] : await catalog(name, byName, warnings, o);
    if (listed.length > 0) await parts.index.note(name, listed);
    for (const repository of listed) if (matches(repository) && !parts.isReserved(repository)) add({ repository, member: name });
    for (const one of known.values()) {
      if (one.member === name && (await isShown(one.repository, o))) add({ repository: one.repository, member: name, cached: isCache });
    }
    if (service)
      for (const one of await served(member, service, text, limit, warnings, o)) {
        if (one.repository > after && (await isShown(one.repository, o)))
          add({ ...one, member: name, cached: isCache && known.get(one.repository)?.member === name });
      }
  }
  const items = [...results.values()].sort((a, b) => (a.repository < b.repository ? -1 : 1));
  const next = items.length > limit && limit > 0 ? items[limit - 1]?.repository : undefined;
  return { items: items.slice(0, limit), ...(next !== undefined && { next }), ...(warnings.length > 0 && { warnings }) };
}

/**
 * Names that were served through connectors, as one more part of an aggregate's catalog: for members that cannot list theirs. What a filter hides by now, or
 * belongs to a connector that is gone, is left out.
 */
export async function knownListing(parts: SearchParts, { after, limit }: PageRequest, o?: CallOptions): Promise<PagePart<string>> {
  const shown = new Map(parts.members.map((member) => [member.connector.name, shownBy(parts, member)]));
  const items: string[] = [];
  let from = after;
  do {
    const page: Page<KnownName> = await parts.index.list({ limit, ...(from !== undefined && { after: from }) });
    for (const { repository, member } of page.items) if (await shown.get(member)?.(repository, o)) items.push(repository);
    from = page.next;
  } while (from !== undefined && items.length < limit && limit > 0);
  return { member: "known", lookup: found({ items, ...(from !== undefined && { next: from }) }, { member: [] }) };
}

/** Whether a member may show a name of ours now. */
function shownBy(
  { isReserved }: SearchParts,
  { connector, byName, patterns }: SearchedMember,
): (repository: string, o?: CallOptions) => Promise<boolean> {
  const { permit, rename, source } = connector;
  return async (ours, o) => {
    if (!byName || isReserved(ours)) return false;
    const theirs = rename ? rename.toSource(ours) : ours;
    if (theirs === undefined) return false;
    const repository = source.canonicalName?.(theirs) ?? theirs;
    if (patterns.repository(repository) === "none") return false;
    if (!permit) return true;
    try {
      return (await permit({ access: "catalog", repository, ...(o?.caller && { caller: o.caller }) })) === true;
    } catch {
      // A rule that fails permits nothing.
      return false;
    }
  };
}

/** The names of a catalog, up to a limit. */
async function catalog(member: string, registry: Registry, warnings: string[], o?: CallOptions): Promise<string[]> {
  const names: string[] = [];
  let after: string | undefined;
  do {
    const lookup = await registry.listRepositories({ limit: 1000, ...(after !== undefined && { after }) }, o);
    if (lookup.kind !== "found") {
      if (lookup.kind !== "absent")
        warnings.push(`${member} could not be searched: ${"error" in lookup ? lookup.error.message : "it does not answer"}`);
      return names;
    }
    names.push(...lookup.value.items);
    if (lookup.value.warnings?.length)
      warnings.push(`${member}: ${lookup.value.warnings.join("; ")}; what it does not list is found only where it was served before`);
    after = lookup.value.next;
    if (after !== undefined && names.length >= catalogLimit) {
      warnings.push(`${member}: only the first ${names.length} of its repositories were searched`);
      return names;
    }
  } while (after !== undefined);
  return names;
}

/** What a member's own service finds, under our names. */
async function served(
  { connector: { name, rename } }: SearchedMember,
  service: SearchSource,
  text: string,
  limit: number,
  warnings: string[],
  o?: CallOptions,
): Promise<SearchResult[]> {
  const lookup = await service(text, { limit }, o);
  if (lookup.kind === "denied" || lookup.kind === "unavailable") warnings.push(`${name}: ${lookup.error.message}`);
  if (lookup.kind !== "found") return [];
  if (lookup.value.next !== undefined) warnings.push(`${name} has more results than are shown: search for more of the name`);
  return lookup.value.items.flatMap((one) => {
    const repository = rename ? rename.fromSource(one.repository) : one.repository;
    return repository === undefined ? [] : [{ ...one, repository }];
  });
}
