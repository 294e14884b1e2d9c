import { LRUCache } from "lru-cache";
import { type Digest, isDigest } from "../core/digest.js";
import type { Lookup } from "../core/lookup.js";
import { mapFound } from "../core/lookup.js";
import type { Manifest } from "../core/manifest.js";
import { parseManifest } from "../core/manifest.js";
import type { Page, PageRequest } from "../core/page.js";
import type { ReachMemory, Registry } from "../core/registry.js";
import { type Enter, intercept } from "./intercept.js";
import { compilePatterns } from "./patterns.js";

export interface FilteredOptions {
  /** Patterns over `repository` or `repository:tag`. Default: everything; `[]` is nothing. */
  readonly allow?: readonly string[];
  /** What matches here is hidden, whatever `allow` says. Default: nothing. */
  readonly block?: readonly string[];
  /** Where it is kept which digests a permitted tag led to. Default: in memory, the latest 100,000. */
  readonly reach?: ReachMemory;
}

/**
 * A view of part of a registry. What is hidden is absent, by tag, by digest and by blob. Where a pattern names tags, a digest is visible once a
 * permitted tag or index has led to it.
 *
 * @throws RegistryError NAME_INVALID for a malformed pattern.
 *
 * @example
 * ```ts
 * import { filtered, localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const all = localRegistry({ storage: memoryStorage(), name: "images" });
 * const some = filtered(all, { allow: ["library/node:22-*", "team/**"], block: ["team/secret"] });
 * ```
 */
export function filtered(registry: Registry, options: FilteredOptions): Registry {
  const patterns = compilePatterns(options.allow, options.block);
  const reach = options.reach ?? memoryReach();

  const canonical = (name: string): string => registry.canonicalName?.(name) ?? name;

  const visible = async (name: string, reference: string | undefined): Promise<boolean> => {
    const repository = canonical(name);
    const verdict = patterns.repository(repository);
    if (verdict !== "tags") return verdict === "all";
    if (reference === undefined) return true;
    return isDigest(reference) ? reach.knows(repository, reference) : patterns.tag(repository, reference);
  };
  const enter: Enter = async ({ repository, reference }) => ((await visible(repository, reference)) ? repository : undefined);
  const led = async (name: string, digests: readonly Digest[]): Promise<void> => {
    const repository = canonical(name);
    if (patterns.repository(repository) === "tags") await reach.remember(repository, digests);
  };

  return intercept(registry, enter, (guarded) => ({
    async resolveManifest(repository, reference, o) {
      const lookup = await guarded.resolveManifest(repository, reference, o);
      if (lookup.kind === "found") await led(repository, [lookup.value.digest]);
      return lookup;
    },
    async getManifest(repository, reference, o) {
      const lookup = await guarded.getManifest(repository, reference, o);
      if (lookup.kind === "found" && patterns.repository(canonical(repository)) === "tags") {
        const { descriptor, bytes } = lookup.value;
        await led(repository, [descriptor.digest, ...referencesOf(parseManifest(bytes, descriptor.mediaType))]);
      }
      return lookup;
    },
    async listReferrers(repository, subject, page, o) {
      const lookup = await guarded.listReferrers(repository, subject, page, o);
      // A permitted image's signatures are permitted with it.
      if (lookup.kind === "found")
        await led(
          repository,
          lookup.value.items.map((item) => item.digest),
        );
      return lookup;
    },
    listTags: (repository, page, o) =>
      sieved(
        page,
        (request) => guarded.listTags(repository, request, o),
        (tag) => patterns.tag(canonical(repository), tag),
      ),
    listRepositories: (page, o) =>
      sieved(
        page,
        (request) => registry.listRepositories(request, o),
        (name) => patterns.repository(name) !== "none",
      ),
  }));
}

function referencesOf(manifest: Manifest): Digest[] {
  return [...(manifest.config ? [manifest.config] : []), ...manifest.layers, ...manifest.children].map((descriptor) => descriptor.digest);
}

/** A full page of what passes, however many pages behind it that takes. */
async function sieved(
  request: PageRequest,
  list: (request: PageRequest) => Promise<Lookup<Page<string>>>,
  passes: (item: string) => boolean,
): Promise<Lookup<Page<string>>> {
  const items: string[] = [];
  let { after } = request;
  while (true) {
    const lookup = await list({ limit: request.limit, ...(after !== undefined && { after }) });
    if (lookup.kind !== "found") return lookup;
    for (const item of lookup.value.items) {
      if (!passes(item)) continue;
      if (items.length === request.limit) return mapFound(lookup, (page) => ({ ...page, items, next: items.at(-1) ?? item }));
      items.push(item);
    }
    after = lookup.value.next;
    if (after === undefined || request.limit === 0) return mapFound(lookup, ({ warnings }) => ({ items, ...(warnings && { warnings }) }));
  }
}

function memoryReach(): ReachMemory {
  const known = new LRUCache<string, true>({ max: 100_000 });
  return {
    async remember(repository, digests) {
      for (const digest of digests) known.set(`${repository}@${digest}`, true);
    },
    knows: async (repository, digest) => known.has(`${repository}@${digest}`),
  };
}
