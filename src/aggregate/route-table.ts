import { RegistryError } from "../core/errors.js";
import { isRepositoryName } from "../core/name.js";
import { retain } from "../core/ownership.js";
import type { ReadyOptions, Registry } from "../core/registry.js";
import type { Duration } from "../core/units.js";
import { InUse } from "./in-use.js";
import { type Retirement, releaseEach } from "./retirement.js";

/** Registries that a table of routes may have beside its names. */
export interface RouteExtras {
  /** Serves the names that belong to no route, at the root. Default: nothing does, they are absent. */
  readonly fallback?: Registry;
  /** Who answers for `?ns=<host>`, as containerd's mirrors ask. Default: nobody, every `ns` is absent. */
  readonly namespaces?: Readonly<Record<string, Registry>>;
}

/** One registry at one place of the table. */
export interface Place {
  readonly registry: Registry;
  readonly inUse: InUse;
}

/** Who stands where, changeable at run time. Each place counts as a holder of its registry. */
export class RouteTable {
  readonly #retirement: Retirement;
  #routes: ReadonlyMap<string, Place> = new Map();
  /** The longest first. */
  #names: readonly string[] = [];
  #namespaces: ReadonlyMap<string, Place> = new Map();
  fallback: Place | undefined;

  constructor(retirement: Retirement) {
    this.#retirement = retirement;
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
    if (before) this.#retire([before]);
  }

  /** Everything at once. Places that have the same registry as before stay. @throws RegistryError NAME_INVALID; the table is then as it was. */
  replace(table: Readonly<Record<string, Registry>>, { fallback, namespaces = {} }: RouteExtras): void {
    for (const name of Object.keys(table)) assertPrefix(name);
    const before = this.#places();
    this.#take(placedAll(table, this.#routes, (name) => name));
    this.#namespaces = placedAll(namespaces, this.#namespaces, (host) => host.toLowerCase());
    if (this.fallback?.registry !== fallback) this.fallback = fallback && placed(fallback);
    const now = new Set(this.#places());
    this.#retire(before.filter((place) => !now.has(place)));
  }

  /** The route of a repository: the longest name that it is below. `itself` when it has a route's name, which is no repository. */
  find(repository: string): { readonly name: string; readonly place: Place } | "itself" | undefined {
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

  get routes(): ReadonlyMap<string, Place> {
    return this.#routes;
  }

  async ready(o?: ReadyOptions): Promise<void> {
    await Promise.all([...new Set(this.#places().map(({ registry }) => registry))].map((registry) => registry.ready(o)));
  }

  async close(o?: { deadline?: Duration }): Promise<void> {
    const registries = this.#places().map(({ registry }) => registry);
    const outcomes = await Promise.allSettled([this.#retirement.close(o), releaseEach(registries, o)]);
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  #take(routes: ReadonlyMap<string, Place>): void {
    this.#routes = routes;
    this.#names = [...routes.keys()].sort((a, b) => b.length - a.length);
  }

  #places(): Place[] {
    return [...this.#routes.values(), ...this.#namespaces.values(), ...(this.fallback ? [this.fallback] : [])];
  }

  #retire(places: readonly Place[]): void {
    for (const { registry, inUse } of places) this.#retirement.retire([registry], inUse);
  }
}

function placed(registry: Registry): Place {
  retain([registry]);
  return { registry, inUse: new InUse() };
}

function placedAll(
  table: Readonly<Record<string, Registry>>,
  before: ReadonlyMap<string, Place>,
  keyOf: (name: string) => string,
): ReadonlyMap<string, Place> {
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
