import pLimit from "p-limit";
import type { Clock } from "../core/clock.js";
import type { Content } from "../core/content.js";
import type { ContentFilter } from "../core/filter.js";
import type { ReachMemory } from "../core/linking-registry.js";
import { absent, type Lookup, mapFound } from "../core/lookup.js";
import type { CallOptions, Registry } from "../core/registry.js";
import type { Reason } from "./content-rules.js";
import { FilterGate, undecided } from "./filter-gate.js";
import { filterWrites } from "./filter-writes.js";
import { behindNamespaces, intercept, type Method } from "./intercept.js";
import { sieved } from "./sieve.js";

/** A page of a listing asks about each of its items: the host's rule, or the memory. */
const questionsAtOnce = 16;

export interface FilteredOptions extends ContentFilter {
  /** Where it is kept what the filter let through, and when it first met something. Default: in memory, the latest 100,000 digests. */
  readonly reach?: ReachMemory;
  /** For `minimumAge`. Default: the system's. */
  readonly clock?: Clock;
}

/** Whether a filter shows everything. */
export function showsEverything(filter: ContentFilter): boolean {
  const { allow, block, platforms, mediaTypes, artifactTypes, maxManifestBytes, maxBlobBytes, minimumAge, permit } = filter;
  return [allow, block, platforms, mediaTypes, artifactTypes, maxManifestBytes, maxBlobBytes, minimumAge, permit].every(
    (rule) => rule === undefined,
  );
}

/**
 * A view of part of a registry. What is hidden is absent, by tag, by digest and by blob: by digest only that is visible which something permitted has led to, where
 * it says nothing by itself. Writes can neither name nor remove what is hidden.
 *
 * @throws RegistryError NAME_INVALID for a malformed pattern, UNKNOWN for a malformed size or duration.
 *
 * @example
 * ```ts
 * import { filtered, localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const all = localRegistry({ storage: memoryStorage(), name: "images" });
 * const some = filtered(all, {
 *   allow: ["library/node:{>=20.1 <23}-alpine*", "team/**"],
 *   block: ["team/secret"],
 *   platforms: ["linux/amd64", "linux/arm64"],
 * });
 * await some.listTags("library/node", { limit: 10 });
 * ```
 */
export function filtered(registry: Registry, options: FilteredOptions): Registry {
  const { reach, clock, ...filter } = options;
  const gate = new FilterGate(registry, filter, reach, clock);
  const turn = pLimit(questionsAtOnce);

  const shown = async <T>(
    method: Method,
    o: CallOptions | undefined,
    lookup: Lookup<T>,
    decide: () => Promise<Reason>,
  ): Promise<Lookup<T>> => (lookup.kind === "found" ? ((await gate.decided(method, o, decide)) ?? lookup) : lookup);

  const listed = async <T>(o: CallOptions | undefined, list: () => Promise<Lookup<T>>): Promise<Lookup<T>> => {
    try {
      return await list();
    } catch (cause) {
      if (o?.signal?.aborted) throw cause;
      return undecided(cause);
    }
  };

  return intercept(
    registry,
    (call) => gate.enter(call),
    (guarded) => ({
      ...filterWrites(registry, gate, guarded),
      // What was reached there is not what was reached here: names may mean something else.
      ...behindNamespaces(registry, (behind) => filtered(behind, { ...filter, ...(clock && { clock }) })),
      async resolveManifest(name, reference, o) {
        const lookup = await guarded.resolveManifest(name, reference, o);
        return shown("resolveManifest", o, lookup, async () =>
          lookup.kind === "found" ? gate.admit(gate.canonical(name), reference, lookup.value, undefined, o) : undefined,
        );
      },
      async getManifest(name, reference, o) {
        const lookup = await guarded.getManifest(name, reference, o);
        return shown("getManifest", o, lookup, async () =>
          lookup.kind === "found" ? gate.admit(gate.canonical(name), reference, lookup.value.descriptor, lookup.value, o) : undefined,
        );
      },
      async resolveBlob(name, digest, o) {
        const lookup = await guarded.resolveBlob(name, digest, o);
        return lookup.kind === "found" && gate.whyTooLarge(lookup.value) !== undefined ? absent : lookup;
      },
      async getBlob(name, digest, o) {
        const lookup = await guarded.getBlob(name, digest, gate.limitsBlobs ? { ...o, unsized: false } : o);
        const reason = lookup.kind === "found" ? gate.whyTooLarge(lookup.value.descriptor) : undefined;
        if (lookup.kind === "found" && reason !== undefined) giveUp(lookup.value.content);
        return shown("getBlob", o, lookup, async () => reason);
      },
      async listReferrers(name, subject, page, o) {
        const lookup = await guarded.listReferrers(name, subject, page, o);
        if (lookup.kind !== "found") return lookup;
        // A permitted image's signatures are permitted with it.
        const items = lookup.value.items.filter((item) => gate.shows(item));
        return listed(o, async () => {
          await gate.remember(
            gate.canonical(name),
            items.map(({ digest }) => digest),
          );
          return mapFound(lookup, (value) => ({ ...value, items }));
        });
      },
      listTags: (name, page, o) =>
        listed(o, () =>
          sieved(
            page,
            (request) => guarded.listTags(name, request, o),
            (tag) => {
              const repository = gate.canonical(name);
              return gate.listsAtOnce(repository, tag) ?? turn(async () => (await gate.whyTagHidden(repository, tag, o)) === undefined);
            },
          ),
        ),
      listRepositories: (page, o) =>
        listed(o, () =>
          sieved(
            page,
            (request) => registry.listRepositories(request, o),
            (repository) => turn(async () => (await gate.whyRepositoryHidden(repository, o)) === undefined),
          ),
        ),
    }),
  );
}

/** A stream from an upstream holds a response; it is read by nobody. */
function giveUp(content: Content): void {
  if (content.kind !== "stream") return;
  content
    .open()
    .on("error", () => {})
    .destroy();
}
