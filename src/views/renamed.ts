import type { NameMapping } from "../core/connector.js";
import { type Lookup, mapFound } from "../core/lookup.js";
import { allPages, type Page, type PageRequest } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { intercept } from "./intercept.js";

/** A catalog under other names must be sorted anew, in memory: more names than this are cut off, with a warning. */
const sortLimit = 1_000_000;

/** Shows a registry's repositories below a prefix: `prefixed("hub/")` shows `library/node` as `hub/library/node`. */
export function prefixed(prefix: string): NameMapping {
  return {
    toSource: (name) => (name.startsWith(prefix) && name.length > prefix.length ? name.slice(prefix.length) : undefined),
    fromSource: (name) => prefix + name,
  };
}

/**
 * The same registry under other repository names.
 *
 * @example
 * ```ts
 * import { localRegistry, prefixed, renamed } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const team = renamed(localRegistry({ storage: memoryStorage(), name: "team" }), prefixed("team/"));
 * const upload = await team.startUpload("team/app"); // "app" in the registry behind
 * await upload.cancel();
 * ```
 */
export function renamed(registry: Registry, mapping: NameMapping): Registry {
  return intercept(
    registry,
    ({ repository }) => mapping.toSource(repository),
    () => ({
      canonicalName(repository) {
        const theirs = mapping.toSource(repository);
        if (theirs === undefined) return repository;
        return mapping.fromSource(registry.canonicalName?.(theirs) ?? theirs) ?? repository;
      },
      listRepositories: (page, o) => listRenamed(registry, mapping, page, o),
    }),
    (theirs) => mapping.fromSource(theirs),
  );
}

async function listRenamed(registry: Registry, mapping: NameMapping, request: PageRequest, o?: CallOptions): Promise<Lookup<Page<string>>> {
  const first = await registry.listRepositories({ limit: 1000 }, o);
  if (first.kind !== "found") return first;
  const names: string[] = [];
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
    if (ours !== undefined && (request.after === undefined || ours > request.after)) names.push(ours);
    if (names.length >= sortLimit) {
      warnings.push(`only the first ${sortLimit} names of the catalog were read`);
      break;
    }
  }
  names.sort(asciiOrder);
  const items = names.slice(0, request.limit);
  const next = names.length > items.length ? items.at(-1) : undefined;
  return mapFound(first, () => ({ items, ...(next !== undefined && { next }), ...(warnings.length > 0 && { warnings }) }));
}

function asciiOrder(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
