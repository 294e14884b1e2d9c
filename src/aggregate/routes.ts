import type { Awaitable } from "../core/awaitable.js";
import { systemClock } from "../core/clock.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { noEvents, type RuntimeOptions, safeSink } from "../core/events.js";
import { absent, found, type Lookup, servedBy } from "../core/lookup.js";
import { madeOf } from "../core/mount-source.js";
import { isRepositoryName } from "../core/name.js";
import { once, retain } from "../core/ownership.js";
import { allPages, type Page, type PageRequest } from "../core/page.js";
import type { CallOptions, ReadyOptions, Registry } from "../core/registry.js";
import { mapReads, mapWrites } from "../core/registry-calls.js";
import type { Duration } from "../core/units.js";
import { mergePages, type PagePart } from "../views/merge-pages.js";
import { Drain, releaseEach, UseCount } from "./members.js";

/** Answers the registry for a name's first segments. That registry is the host's: the routes do not make it ready or close it, and ask for it again with every call. */
export type FindRegistry = (name: string, o?: CallOptions) => Awaitable<Registry | undefined>;

export interface RoutesOptions extends RouteExtras, RuntimeOptions {
  /** How many first segments of a name the function is called with. Default: 1. */
  readonly depth?: number;
  /** The names that the function knows, for the catalog. Default: their repositories are not listed, and a warning says so. */
  readonly names?: (page: PageRequest, o?: CallOptions) => Promise<Page<string>>;
}

/** Routes that can be changed while they serve. */
export interface RoutesRegistry extends Registry {
  /**
   * Puts a registry under a name, or takes it away. Call the new one's `ready()` first. The old one goes on with what runs and is then given up, after half a
   * minute at the earliest. @throws RegistryError NAME_INVALID
   */
  set(name: string, registry: Registry | undefined): void;
  /** As `set`, for all names, the fallback and the namespaces at once; what stays the same is left alone. @throws RegistryError NAME_INVALID */
  replace(table: Readonly<Record<string, Registry>>, extras?: RouteExtras): void;
}

interface Target extends RoutedRepository {
  readonly name: string;
  readonly repository: string;
}

/** For registries that the function answers: they are not closed here, so nobody waits until nothing runs through them. */
const uncounted = new UseCount();

/**
 * Many registries side by side, each under a name prefix: `routes({ release, hub })` serves `release/team/app` and `hub/library/node`. The longest
 * prefix wins; a name below a route never reaches the fallback. In place of a table a function may answer the registry for a name's first segment; names that
 * were `set` go before it. What the function throws is told as UNAVAILABLE, its own `RegistryError` as it is.
 *
 * @throws RegistryError NAME_INVALID for a prefix that cannot begin a repository name, with a suggestion.
 *
 * @example
 * ```ts
 * import { localRegistry, type Registry, routes } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * const all = routes({
 *   release: localRegistry({ storage, name: "release" }),
 *   "team/blue": localRegistry({ storage, name: "blue" }),
 * });
 * await all.listTags("team/blue/app", { limit: 10 });
 * all.set("team/green", localRegistry({ storage, name: "green" }));
 *
 * const teams = new Map<string, Registry>();
 * const byTeam = routes(async (name) => teams.get(name), { names: async () => ({ items: [...teams.keys()].sort() }) });
 * teams.set("red", localRegistry({ storage, name: "red" })); // red/… is served from here on
 * await byTeam.listTags("red/app", { limit: 10 });
 * ```
 */
export function routes(tableOrFind: Readonly<Record<string, Registry>> | FindRegistry, options: RoutesOptions = {}): RoutesRegistry {
  const find = typeof tableOrFind === "function" ? tableOrFind : undefined;
  const { clock = systemClock, depth = 1, names } = options;
  const events = safeSink(options.events ?? noEvents);
  const table = new RouteTable(new Drain({ clock, events, name: "routes" }));
  table.replace(typeof tableOrFind === "function" ? {} : tableOrFind, options);

  const target = (repository: string, o?: CallOptions, ask = find && askedOnce(find, o)): Awaitable<Target | undefined> => {
    const there = table.find(repository);
    if (there === "itself") return undefined;
    if (there) return { ...there.place, name: there.name, repository: repository.slice(there.name.length + 1) };
    const otherwise = table.fallback && { ...table.fallback, name: "fallback", repository };
    const name = ask && firstSegments(repository, depth);
    if (!ask || name === undefined) return otherwise;
    const answer = (registry: Registry | undefined): Target | undefined => {
      if (!registry) return otherwise;
      return repository.length === name.length
        ? undefined
        : { registry, useCount: uncounted, name, repository: repository.slice(name.length + 1) };
    };
    const registry = ask(name);
    return registry instanceof Promise ? registry.then(answer) : answer(registry);
  };
  const read = async <T>(name: string, o: CallOptions | undefined, run: (to: Target) => Promise<Lookup<T>>): Promise<Lookup<T>> => {
    let to: Target | undefined;
    try {
      to = await target(name, o);
    } catch (error) {
      if (!isRegistryError(error)) throw error;
      return { kind: error.status === 401 || error.status === 403 ? "denied" : "unavailable", error };
    }
    if (!to) return absent;
    const { name: member, useCount } = to;
    const there = to;
    return servedBy(member, await useCount.during(() => run(there)));
  };
  const write = async <T>(name: string, o: CallOptions | undefined, run: (to: Target) => Promise<T>): Promise<T> => {
    const to = await target(name, o);
    if (to) return to.useCount.during(() => run(to));
    const known = [...table.routes.keys()].map((prefix) => `${prefix}/…`).join(", ");
    throw new RegistryError("NAME_UNKNOWN", `${name} belongs to no registry here${known && `: use a name below ${known}`}`);
  };

  const outer: RoutesRegistry = {
    /** A function that answers later cannot be waited for here: put filters behind such routes, around each registry. */
    canonicalName(name) {
      const to = target(name);
      if (to instanceof Promise) to.catch(() => {});
      if (!to || to instanceof Promise) return name;
      const theirs = to.registry.canonicalName?.(to.repository) ?? to.repository;
      // The fallback's names are at the root.
      return name.slice(0, name.length - to.repository.length) + theirs;
    },
    ...mapReads(({ repository, options }, send) => read(repository, options, (to) => send(to.registry, to.repository))),
    getBlob: (name, digest, o) =>
      read(name, o, async (to) => {
        const lookup = await to.registry.getBlob(to.repository, digest, o);
        return to.useCount === uncounted ? lookup : to.useCount.reading(lookup);
      }),
    async listRepositories(page, o) {
      const ask = find && askedOnce(find, o);
      const isTabled = (repository: string) => table.find(repository) !== undefined;
      const belongsTo = (name: string) => (repository: string) => {
        const there = table.find(repository);
        return there !== undefined && there !== "itself" && there.name === name;
      };
      const listed: Promise<PagePart<string>>[] = [...table.routes].map(([name, place]) =>
        place.useCount.during(() => listRoute(name, place.registry, page, belongsTo(name), o)),
      );
      if (ask && names) {
        const found = { names, find: async (name: string) => ask(name), isShown: (repository: string) => !isTabled(repository) };
        listed.push(listFound(found, page, o));
      }
      const { fallback } = table;
      // A fallback that is also a route shows its names there.
      if (fallback && ![...table.routes.values()].some(({ registry }) => registry === fallback.registry)) {
        listed.push(
          listFallback(fallback, page, async (repository) => (await target(repository, o, ask))?.useCount === fallback.useCount, o),
        );
      }
      const merged = mergePages(await Promise.all(listed), page.limit, (name) => name, { member: [] });
      const catalog: Lookup<Page<string>> =
        merged.kind === "absent" ? { kind: "found", value: { items: [] }, served: { member: [] } } : merged;
      if (catalog.kind !== "found" || !find || names) return catalog;
      const warnings = [
        ...(catalog.value.warnings ?? []),
        "only some registries are listed here: the names of the others are not known beforehand",
      ];
      return { ...catalog, value: { ...catalog.value, warnings } };
    },
    ...mapWrites(({ repository, options }, send) => write(repository, options, (to) => send(to.registry, to.repository))),
    mountBlob: async (name, digest, from, o) => {
      // Asked once for both names: two answers for the same one might be two objects, which do not know each other.
      const ask = find && askedOnce(find, o);
      const source = from?.registry === outer ? await target(from.repository, o, ask) : undefined;
      if (from?.registry === outer && !source) return undefined;
      const to = await target(name, o, ask);
      if (!to) return write(name, o, async () => undefined);
      return to.useCount.during(async () => {
        if (from) {
          const there = source ? { registry: source.registry, repository: source.repository } : from;
          const mount = () => to.registry.mountBlob(to.repository, digest, there, o);
          return source ? source.useCount.during(mount) : mount();
        }
        // The name of the route, or nothing for the fallback, whose names are at the root.
        const prefix = name.slice(0, name.length - to.repository.length);
        const permits = o?.permits && ((theirs: string) => o.permits?.(prefix + theirs) ?? true);
        return to.registry.mountBlob(to.repository, digest, undefined, { ...o, ...(permits && { permits }) });
      });
    },
    startUpload: (name, o) => write(name, o, async (to) => to.useCount.writing(await to.registry.startUpload(to.repository, o))),
    resumeUpload: (name, id, o) => write(name, o, async (to) => to.useCount.writing(await to.registry.resumeUpload(to.repository, id, o))),
    forNamespace: (host) => table.namespace(host),
    set: (name, registry) => table.set(name, registry),
    replace: (registries, extras = {}) => table.replace(registries, extras),
    ready: (o) => table.ready(o),
    close: once((o) => table.close(o)),
  };
  madeOf(outer, {
    parts: () => [...table.routes.values(), ...(table.fallback ? [table.fallback] : [])].map(({ registry }) => registry),
    behind: async (repository, _digest, o) => target(repository, o),
    namesOf: (part, repository) => [
      ...[...table.routes].flatMap(([name, { registry }]) => (registry === part ? [`${name}/${repository}`] : [])),
      ...(table.fallback?.registry === part && !table.find(repository) ? [repository] : []),
    ],
  });
  return outer;
}

/** The host's function, for one call: each name is asked for once. What the function throws becomes UNAVAILABLE, unless it is a `RegistryError`. */
function askedOnce(find: FindRegistry, o: CallOptions | undefined): (name: string) => Awaitable<Registry | undefined> {
  const answers = new Map<string, Awaitable<Registry | undefined>>();
  const failed = (name: string, cause: unknown): never => {
    if (isRegistryError(cause) || o?.signal?.aborted) throw cause;
    throw new RegistryError("UNAVAILABLE", `whether there is a registry ${name} could not be found out: try again`, {
      cause,
      retryAfter: 5,
    });
  };
  return (name) => {
    if (answers.has(name)) return answers.get(name);
    let answer: Awaitable<Registry | undefined>;
    try {
      answer = find(name, o);
    } catch (error) {
      return failed(name, error);
    }
    if (answer instanceof Promise) answer = answer.catch((error: unknown) => failed(name, error));
    answers.set(name, answer);
    return answer;
  };
}

/** The first segments of a name; `undefined` where there are not so many, or the text is no name at all. */
function firstSegments(repository: string, depth: number): string | undefined {
  const segments = repository.split("/");
  if (segments.length < depth || !isRepositoryName(repository)) return undefined;
  return segments.slice(0, depth).join("/");
}

async function listFallback(
  { registry, useCount }: RoutedRepository,
  page: PageRequest,
  belongs: (repository: string) => Promise<boolean>,
  o?: CallOptions,
): Promise<PagePart<string>> {
  const lookup = await useCount.during(() => registry.listRepositories(page, o));
  if (lookup.kind !== "found") return { member: "fallback", lookup };
  // What cannot be found out is not shown.
  const shown = await Promise.all(lookup.value.items.map((item) => belongs(item).catch(() => false)));
  const items = lookup.value.items.filter((_, index) => shown[index]);
  return { member: "fallback", lookup: { ...lookup, value: { ...lookup.value, items } } };
}

/** Registries that a table of routes may have beside its names. */
export interface RouteExtras {
  /** Serves the names that belong to no route, at the root. Default: nothing does, they are absent. */
  readonly fallback?: Registry;
  /** Which registry answers for `?ns=<host>`, as containerd's mirrors ask. Default: none, every `ns` is absent. */
  readonly namespaces?: Readonly<Record<string, Registry>>;
}

/** One registry at one place of the table. */
interface RoutedRepository {
  readonly registry: Registry;
  readonly useCount: UseCount;
}

/** Which registry is where, changeable at run time. Each place holds its registry once, and a registry that is removed is drained. */
class RouteTable {
  readonly #drain: Drain;
  #routes: ReadonlyMap<string, RoutedRepository> = new Map();
  /** The longest first. */
  #names: readonly string[] = [];
  #namespaces: ReadonlyMap<string, RoutedRepository> = new Map();
  fallback: RoutedRepository | undefined;

  constructor(drain: Drain) {
    this.#drain = drain;
  }

  /** @throws RegistryError NAME_INVALID; the table is then as it was. */
  set(name: string, registry: Registry | undefined): void {
    assertPrefix(name);
    const before = this.#routes.get(name);
    if (before?.registry === registry) return;
    const routes = new Map(this.#routes);
    if (registry) routes.set(name, placed(registry));
    else routes.delete(name);
    this.#take(routes);
    if (before) this.#remove([before]);
  }

  /** Everything at once. Places that have the same registry as before stay. @throws RegistryError NAME_INVALID; the table is then as it was. */
  replace(table: Readonly<Record<string, Registry>>, { fallback, namespaces = {} }: RouteExtras): void {
    for (const name of Object.keys(table)) assertPrefix(name);
    const before = this.#places();
    this.#take(placedAll(table, this.#routes, (name) => name));
    this.#namespaces = placedAll(namespaces, this.#namespaces, (host) => host.toLowerCase());
    if (this.fallback?.registry !== fallback) this.fallback = fallback && placed(fallback);
    const now = new Set(this.#places());
    this.#remove(before.filter((place) => !now.has(place)));
  }

  /** The route of a repository: the longest name that it is below. `itself` when it has a route's name, which is no repository. */
  find(repository: string): { readonly name: string; readonly place: RoutedRepository } | "itself" | undefined {
    for (const name of this.#names) {
      if (!repository.startsWith(name)) continue;
      if (repository.length === name.length) return "itself";
      const place = repository[name.length] === "/" ? this.#routes.get(name) : undefined;
      if (place) return { name, place };
    }
    return undefined;
  }

  namespace(host: string): Registry | undefined {
    return this.#namespaces.get(host.toLowerCase())?.registry;
  }

  get routes(): ReadonlyMap<string, RoutedRepository> {
    return this.#routes;
  }

  async ready(o?: ReadyOptions): Promise<void> {
    await Promise.all([...new Set(this.#places().map(({ registry }) => registry))].map((registry) => registry.ready(o)));
  }

  async close(o?: { deadline?: Duration }): Promise<void> {
    const registries = this.#places().map(({ registry }) => registry);
    const outcomes = await Promise.allSettled([this.#drain.close(o), releaseEach(registries, o)]);
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  #take(routes: ReadonlyMap<string, RoutedRepository>): void {
    this.#routes = routes;
    this.#names = [...routes.keys()].sort((a, b) => b.length - a.length);
  }

  #places(): RoutedRepository[] {
    return [...this.#routes.values(), ...this.#namespaces.values(), ...(this.fallback ? [this.fallback] : [])];
  }

  #remove(places: readonly RoutedRepository[]): void {
    for (const { registry, useCount } of places) this.#drain.add([registry], useCount);
  }
}

function placed(registry: Registry): RoutedRepository {
  retain([registry]);
  return { registry, useCount: new UseCount() };
}

function placedAll(
  table: Readonly<Record<string, Registry>>,
  before: ReadonlyMap<string, RoutedRepository>,
  keyOf: (name: string) => string,
): ReadonlyMap<string, RoutedRepository> {
  return new Map(
    Object.entries(table).map(([name, registry]) => {
      const key = keyOf(name);
      const there = before.get(key);
      return [key, there?.registry === registry ? there : placed(registry)];
    }),
  );
}

function assertPrefix(prefix: string): void {
  if (isRepositoryName(prefix)) return;
  const suggestion = prefix
    .replace(/([a-z0-9])([A-Z])/g, "$1-$2")
    .toLowerCase()
    .replace(/[^a-z0-9/]+/g, "-")
    .replace(/^[-/]+|[-/]+$/g, "");
  const hint = isRepositoryName(suggestion) ? `: use ${JSON.stringify(suggestion)}` : "";
  throw new RegistryError("NAME_INVALID", `${JSON.stringify(prefix)} cannot be a route, since repository names are lower case${hint}`);
}

/** Names of registries that a catalog is made of at most: they are sorted in memory. */
const namesLimit = 100_000;

/** The names of one route with its prefix, without those that belong to a longer prefix. */
async function listRoute(
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
interface FoundRoutes {
  names(page: PageRequest, o?: CallOptions): Promise<Page<string>>;
  find(name: string): Promise<Registry | undefined>;
  isShown(repository: string): boolean;
}

/** The repositories of registries that only the host's function knows, one registry after the other until the page is full. */
async function listFound(routes: FoundRoutes, page: PageRequest, o?: CallOptions): Promise<PagePart<string>> {
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
        from = addPage(name, lookup, items, warnings);
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

/** Adds one page to the items and answers where the next page begins. */
function addPage(name: string, lookup: Lookup<Page<string>>, items: string[], warnings: string[]): string | undefined {
  if (lookup.kind === "denied" || lookup.kind === "unavailable")
    warnings.push(`this list is not complete: ${name} could not be listed: ${lookup.error.message}`);
  if (lookup.kind !== "found") return undefined;
  items.push(...lookup.value.items);
  warnings.push(...(lookup.value.warnings ?? []));
  return lookup.value.next;
}

/** The names with a slash behind them, in the order of the repositories below them: "a-b/x" comes before "a/x". */
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
