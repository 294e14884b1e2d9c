import type { Awaitable } from "./awaitable.js";
import type { CallOptions, MountSource, Registry } from "./registry.js";

/** What a registry that is made of others says of them, so that a mount cannot go around it. */
interface Composition {
  /** The registries behind it at this moment. */
  parts(): Iterable<Registry>;
  /** Where the blob of one of its repositories comes from; `undefined` when it shows no such blob, which is final. */
  behind(repository: string, digest: string, o?: CallOptions): Awaitable<MountSource | undefined>;
  /** What a repository of one of the parts is called here; nothing when it is not shown here. */
  namesOf(part: Registry, repository: string): readonly string[];
}

const compositions = new WeakMap<Registry, Composition>();

/** Declares what a registry is made of. One that does not is taken for itself alone. */
export function madeOf(registry: Registry, composition: Composition): void {
  compositions.set(registry, composition);
}

/**
 * Follows a mount's source through views, routes and aggregates to the registry that has the blob: all of them, the named one first. `undefined` when one of them
 * does not show it.
 */
export async function mountPath(from: MountSource, digest: string, o?: CallOptions): Promise<readonly MountSource[] | undefined> {
  const path = [from];
  for (let at = from; ; ) {
    const composition = compositions.get(at.registry);
    if (!composition) return path;
    const next = await composition.behind(at.repository, digest, o);
    // Aggregates may show each other.
    if (!next || path.some(({ registry, repository }) => registry === next.registry && repository === next.repository)) return undefined;
    path.push(next);
    at = next;
  }
}

/**
 * What a registry calls the repository that a mount takes its blob from: whichever of both is a view of the other. Empty when the registry does not show it;
 * `undefined` when the two have nothing to do with each other.
 */
export function namesOnPath(
  registry: Registry,
  path: readonly MountSource[],
  seen: Set<Registry> = new Set(),
): readonly string[] | undefined {
  const itself = path.find((source) => source.registry === registry);
  if (itself) return [itself.repository];
  const composition = compositions.get(registry);
  if (!composition || seen.has(registry)) return undefined;
  seen.add(registry);
  let names: string[] | undefined;
  for (const part of composition.parts()) {
    const theirs = namesOnPath(part, path, seen);
    if (theirs) names = [...(names ?? []), ...theirs.flatMap((name) => composition.namesOf(part, name))];
  }
  return names;
}
