import type { NameMapping } from "../core/connector.js";
import { RegistryError } from "../core/errors.js";
import { parseRepositoryName } from "../core/name.js";

/**
 * Shows a registry's repositories below a prefix: `prefixed("hub/")` shows `library/node` as `hub/library/node`.
 *
 * @example
 * ```ts
 * import { prefixed } from "oci-manifold/names";
 * console.assert(prefixed("hub/").fromSource("library/node") === "hub/library/node");
 * ```
 */
export function prefixed(prefix: string): NameMapping {
  return exchanged(prefix, "");
}

/**
 * Shows only what lies below a prefix, without it: `stripped("library/")` shows `library/node` as `node`, and nothing else.
 *
 * @example
 * ```ts
 * import { stripped } from "oci-manifold/names";
 * console.assert(stripped("library/").toSource("node") === "library/node");
 * ```
 */
export function stripped(prefix: string): NameMapping {
  return exchanged("", prefix);
}

/**
 * Shows the repositories of a table and no others: `nameTable({ "legacy/app": "team/app" })` shows `team/app` as `legacy/app`.
 *
 * @throws RegistryError NAME_INVALID for a malformed name, and where two of ours would be one of theirs.
 *
 * @example
 * ```ts
 * import { nameTable } from "oci-manifold/names";
 * const names = nameTable({ "legacy/app": "team/app" });
 * console.assert(names.toSource("legacy/app") === "team/app");
 * console.assert(names.fromSource("team/other") === undefined);
 * ```
 */
export function nameTable(table: Readonly<Record<string, string>>): NameMapping {
  const theirs = new Map(Object.entries(table).map(([ours, source]) => [parseRepositoryName(ours), parseRepositoryName(source)]));
  const ours = new Map([...theirs].map(([name, source]) => [source, name]));
  if (ours.size < theirs.size) {
    throw new RegistryError("NAME_INVALID", "a name mapping has two names for one repository: its listings could show only one of them");
  }
  return { toSource: (name) => theirs.get(name), fromSource: (name) => ours.get(name) };
}

/**
 * Docker Hub's short names: its `library/node` is shown as `node`, other names stay as they are. `library/node` can be pulled under its full name too.
 *
 * @example
 * ```ts
 * import { dockerLibrary } from "oci-manifold/names";
 * console.assert(dockerLibrary().toSource("node") === "library/node");
 * console.assert(dockerLibrary().fromSource("bitnami/redis") === "bitnami/redis");
 * ```
 */
export function dockerLibrary(): NameMapping {
  return {
    toSource: (name) => (name.includes("/") ? name : `library/${name}`),
    fromSource(name) {
      // What is called "node" there would be taken for library/node here.
      if (!name.includes("/")) return undefined;
      const short = name.startsWith("library/") ? name.slice("library/".length) : name;
      return short.includes("/") || short === "" ? name : short;
    },
  };
}

/**
 * Several mappings in a row, the one nearest to the client first: `chained(prefixed("hub/"), library())` shows `library/node` as `hub/node`.
 *
 * @example
 * ```ts
 * import { chained, dockerLibrary, prefixed } from "oci-manifold/names";
 * const names = chained(prefixed("hub/"), dockerLibrary());
 * console.assert(names.toSource("hub/node") === "library/node");
 * console.assert(names.fromSource("library/node") === "hub/node");
 * ```
 */
export function chained(...mappings: readonly NameMapping[]): NameMapping {
  const inwards = (name: string | undefined, next: NameMapping) => (name === undefined ? undefined : next.toSource(name));
  const outwards = (next: NameMapping, name: string | undefined) => (name === undefined ? undefined : next.fromSource(name));
  const prefixes = mappings.reduce<NameMapping["prefixes"]>((before, next) => before && next.prefixes && joined(before, next.prefixes), {
    ours: "",
    theirs: "",
  });
  return {
    toSource: (name) => mappings.reduce<string | undefined>(inwards, name),
    fromSource: (name) => mappings.reduceRight<string | undefined>((inner, next) => outwards(next, inner), name),
    ...(prefixes && { prefixes }),
  };
}

type Prefixes = NonNullable<NameMapping["prefixes"]>;

function exchanged(ours: string, theirs: string): NameMapping {
  const exchange = (name: string, from: string, to: string) =>
    name.startsWith(from) && name.length > from.length ? to + name.slice(from.length) : undefined;
  return {
    toSource: (name) => exchange(name, ours, theirs),
    fromSource: (name) => exchange(name, theirs, ours),
    prefixes: { ours, theirs },
  };
}

/** Two exchanges of prefixes as one, where names that pass the one can pass the other. */
function joined(outer: Prefixes, inner: Prefixes): Prefixes | undefined {
  if (outer.theirs.startsWith(inner.ours)) return { ours: outer.ours, theirs: inner.theirs + outer.theirs.slice(inner.ours.length) };
  if (inner.ours.startsWith(outer.theirs)) return { ours: outer.ours + inner.ours.slice(outer.theirs.length), theirs: inner.theirs };
  return undefined;
}
