import { RegistryError } from "../core/errors.js";
import { absent, type Lookup, servedBy } from "../core/lookup.js";
import { isRepositoryName } from "../core/name.js";
import { once, release, retain } from "../core/ownership.js";
import type { Page, PageRequest } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { mergePages, type PagePart } from "../views/merge-pages.js";

export interface RoutesOptions {
  /** Serves the names that belong to no route, at the root. Default: nothing does, they are absent. */
  readonly fallback?: Registry;
  /** Who answers for `?ns=<host>`, as containerd's mirrors ask. Default: nobody, every `ns` is absent. */
  readonly namespaces?: Readonly<Record<string, Registry>>;
}

interface Target {
  readonly name: string;
  readonly registry: Registry;
  readonly repository: string;
}

/**
 * Many registries side by side, each under a name prefix: `routes({ release, hub })` serves `release/team/app` and `hub/library/node`. The longest
 * prefix wins; a name below a route never reaches the fallback.
 *
 * @throws RegistryError NAME_INVALID for a prefix that cannot begin a repository name, with a suggestion.
 *
 * @example
 * ```ts
 * import { localRegistry, routes } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * const all = routes({
 *   release: localRegistry({ storage, name: "release" }),
 *   "team/blue": localRegistry({ storage, name: "blue" }),
 * });
 * await all.listTags("team/blue/app", { limit: 10 });
 * ```
 */
export function routes(table: Readonly<Record<string, Registry>>, options: RoutesOptions = {}): Registry {
  for (const prefix of Object.keys(table)) assertPrefix(prefix);
  const { fallback } = options;
  const prefixes = Object.keys(table).sort((a, b) => b.length - a.length);
  const namespaces = new Map(Object.entries(options.namespaces ?? {}).map(([host, registry]) => [host.toLowerCase(), registry]));
  const parts = [...new Set([...Object.values(table), ...(fallback ? [fallback] : []), ...namespaces.values()])];
  retain(parts);

  const target = (repository: string): Target | undefined => {
    for (const name of prefixes) {
      const registry = table[name];
      if (registry === undefined || !repository.startsWith(name)) continue;
      if (repository.length === name.length) return undefined;
      if (repository[name.length] === "/") return { name, registry, repository: repository.slice(name.length + 1) };
    }
    return fallback && { name: "fallback", registry: fallback, repository };
  };
  const read = async <T>(name: string, ask: (to: Target) => Promise<Lookup<T>>): Promise<Lookup<T>> => {
    const to = target(name);
    return to ? servedBy(to.name, await ask(to)) : absent;
  };
  const write = async <T>(name: string, run: (to: Target) => Promise<T>): Promise<T> => {
    const to = target(name);
    if (to) return run(to);
    const known = Object.keys(table).map((prefix) => `${prefix}/…`);
    throw new RegistryError("NAME_UNKNOWN", `${name} belongs to no registry here: use a name below ${known.join(", ")}`);
  };

  const outer: Registry = {
    canonicalName(name) {
      const to = target(name);
      if (!to) return name;
      const theirs = to.registry.canonicalName?.(to.repository) ?? to.repository;
      // The fallback's names stand at the root.
      return name.slice(0, name.length - to.repository.length) + theirs;
    },
    resolveManifest: (name, reference, o) => read(name, (to) => to.registry.resolveManifest(to.repository, reference, o)),
    getManifest: (name, reference, o) => read(name, (to) => to.registry.getManifest(to.repository, reference, o)),
    resolveBlob: (name, digest, o) => read(name, (to) => to.registry.resolveBlob(to.repository, digest, o)),
    getBlob: (name, digest, o) => read(name, (to) => to.registry.getBlob(to.repository, digest, o)),
    listTags: (name, page, o) => read(name, (to) => to.registry.listTags(to.repository, page, o)),
    listReferrers: (name, subject, page, o) => read(name, (to) => to.registry.listReferrers(to.repository, subject, page, o)),
    async listRepositories(page, o) {
      const listed = Object.entries(table).map(([name, registry]) => listRoute(name, registry, page, target, o));
      // A fallback that is also a route shows its names there.
      if (fallback && !Object.values(table).includes(fallback)) listed.push(listFallback(fallback, page, target, o));
      const merged = mergePages(await Promise.all(listed), page.limit, (name) => name, { member: [] });
      return merged.kind === "absent" ? { kind: "found", value: { items: [] }, served: { member: [] } } : merged;
    },
    putManifest: (name, reference, content, o) => write(name, (to) => to.registry.putManifest(to.repository, reference, content, o)),
    putBlob: (name, expected, source, o) => write(name, (to) => to.registry.putBlob(to.repository, expected, source, o)),
    mountBlob: (name, digest, from, o) =>
      write(name, async (to) => {
        if (!from) {
          // The name of the route, or nothing for the fallback, whose names stand at the root.
          const prefix = name.slice(0, name.length - to.repository.length);
          const permits = o?.permits && ((theirs: string) => o.permits?.(prefix + theirs) ?? true);
          return to.registry.mountBlob(to.repository, digest, undefined, { ...o, ...(permits && { permits }) });
        }
        if (from.registry !== outer) return to.registry.mountBlob(to.repository, digest, from, o);
        const source = target(from.repository);
        return source && to.registry.mountBlob(to.repository, digest, { registry: source.registry, repository: source.repository }, o);
      }),
    startUpload: (name, o) => write(name, (to) => to.registry.startUpload(to.repository, o)),
    resumeUpload: (name, id, o) => write(name, (to) => to.registry.resumeUpload(to.repository, id, o)),
    deleteManifest: (name, reference, o) => write(name, (to) => to.registry.deleteManifest(to.repository, reference, o)),
    deleteBlob: (name, digest, o) => write(name, (to) => to.registry.deleteBlob(to.repository, digest, o)),
    forNamespace: (host) => namespaces.get(host.toLowerCase()),
    async ready() {
      await Promise.all(parts.map((part) => part.ready()));
    },
    close: once((o) => release(parts, o)),
  };
  return outer;
}

/** One route's names with its prefix, without those that a longer prefix takes. */
async function listRoute(
  name: string,
  registry: Registry,
  page: PageRequest,
  target: (repository: string) => Target | undefined,
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
    items: items.map((item) => prefix + item).filter((item) => target(item)?.name === name),
    ...(next !== undefined && { next: prefix + next }),
    ...(warnings && { warnings }),
  };
  return { member: name, lookup: { ...lookup, value: shown } };
}

async function listFallback(
  fallback: Registry,
  page: PageRequest,
  target: (repository: string) => Target | undefined,
  o?: CallOptions,
): Promise<PagePart<string>> {
  const lookup = await fallback.listRepositories(page, o);
  if (lookup.kind !== "found") return { member: "fallback", lookup };
  const items = lookup.value.items.filter((item) => target(item)?.registry === fallback);
  return { member: "fallback", lookup: { ...lookup, value: { ...lookup.value, items } } };
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
