import { LRUCache } from "lru-cache";
import pLimit from "p-limit";
import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import type { Origin } from "../core/lookup.js";
import type { StoringRegistry } from "../core/storing-registry.js";
import { spendTurn } from "../core/turn-budget.js";
import { availability, type InspectableAggregate, type ManifestReference, manifestReferencesOf, Places } from "./availability.js";
import { BoundedList } from "./bounded-list.js";
import { checkConcurrency } from "./in-parallel.js";
import { localManifests, readStoredManifest } from "./stored-manifests.js";

/**
 * Which references of the manifests stored in an aggregate no member can give: configs, layers and the children of indexes. Whoever may have the bytes is asked by
 * HEAD, and only where they are not here. What could not be found out, since a member is down, is `unknown` and never `dangling`.
 *
 * @throws the signal's reason; RegistryError NAME_INVALID for a malformed `after`, UNKNOWN for a `concurrency` that is no whole number from 1.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry } from "oci-manifold";
 * import { findDangling } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const all = aggregate({ local: localRegistry({ storage: memoryStorage(), name: "all" }), connectors: [] });
 * const { manifests, dangling } = await findDangling(all);
 * console.log(`${dangling.length} references of ${manifests} manifests lead nowhere`);
 * ```
 */
export async function findDangling(aggregate: InspectableAggregate, options: FindDanglingOptions = {}): Promise<FindDanglingReport> {
  const { local } = aggregate;
  const places = new Places(aggregate);
  const call = { priority: "background" as const, ...(options.signal && { signal: options.signal }) };
  return examineManifests(local, options, async (repository, reference) => {
    const answer = await availability(local, places, repository, reference, call);
    return answer.kind === "here" || answer.kind === "given" ? { kind: "well" } : answer;
  });
}

export interface FindDanglingOptions {
  /** Ends it; it then rejects with the signal's reason. What progress told last says where to go on, and what was found up to there. */
  readonly signal?: AbortSignal;
  /** Called after every page of manifests. */
  readonly progress?: (progress: FindDanglingProgress) => void;
  /** Goes on behind this place, as progress gave it. */
  readonly after?: string;
  /** How many references are looked at, and so how many requests run, at a time. Default: 8. */
  readonly concurrency?: number;
  /** How many findings of each list are kept; more are only counted. Default: 1,000. */
  readonly limit?: number;
}

export interface FindDanglingReport {
  /** Manifests that were read. */
  readonly manifests: number;
  /** Distinct ones of each repository; in a repository with more than 100,000, some may count twice. */
  readonly references: number;
  /** No member can give these. */
  readonly dangling: readonly Finding[];
  /** These nobody gave, but somebody could not be asked. */
  readonly unknown: readonly Finding[];
  /** Findings beyond the limit. */
  readonly omitted: { readonly dangling: number; readonly unknown: number };
}

export interface FindDanglingProgress extends FindDanglingReport {
  /** Pass it as `after` to go on from here. */
  readonly after: string;
}

type ReferenceVerdict =
  | { readonly kind: "well" }
  | { readonly kind: "dangling" | "unknown"; readonly why: string; readonly origin?: Origin };

/** So many verdicts are remembered: layers are shared by many manifests of a repository, and each is asked about once. */
const remembered = 100_000;

/** Judges every distinct reference of every manifest stored in a registry, in constant memory. What is judged is for the caller to say: `impactOfRemoving` walks the same way. */
export async function examineManifests(
  local: StoringRegistry,
  o: FindDanglingOptions,
  judge: (repository: string, reference: ManifestReference) => Promise<ReferenceVerdict>,
): Promise<FindDanglingReport> {
  const { signal, progress, after, concurrency = 8, limit = 1000 } = o;
  checkConcurrency(concurrency);
  const limited = pLimit(concurrency);
  // Apart from the requests: a manifest waits for those of its references.
  const reading = pLimit(concurrency);
  const verdicts = new LRUCache<string, Promise<ReferenceVerdict>>({ max: remembered });
  const dangling = new BoundedList<Finding>(limit);
  const unknown = new BoundedList<Finding>(limit);
  let manifests = 0;
  let references = 0;
  const report = (): FindDanglingReport => ({
    manifests,
    references,
    dangling: [...dangling.kept],
    unknown: [...unknown.kept],
    omitted: { dangling: dangling.omitted, unknown: unknown.omitted },
  });
  const verdictOf = (repository: string, reference: ManifestReference): Promise<ReferenceVerdict> => {
    const key = `${repository} ${reference.as} ${reference.descriptor.digest}`;
    const known = verdicts.get(key);
    if (known) return known;
    references++;
    const verdict = limited(() => {
      signal?.throwIfAborted();
      return judge(repository, reference);
    });
    verdicts.set(key, verdict);
    return verdict;
  };

  const judgeManifest = async (repository: string, digest: Digest): Promise<{ kind: "dangling" | "unknown"; finding: Finding }[]> => {
    signal?.throwIfAborted();
    const manifest = await readStoredManifest(local, repository, digest);
    if (!manifest) return [];
    manifests++;
    const all = await Promise.all(
      manifestReferencesOf(manifest).map(async (reference) => ({ reference, verdict: await verdictOf(repository, reference) })),
    );
    const tags = all.some(({ verdict }) => verdict.kind !== "well") ? await tagsOf(local, repository, digest) : [];
    return all.flatMap(({ reference, verdict }) => {
      if (verdict.kind === "well") return [];
      const { kind, why, origin } = verdict;
      return [{ kind, finding: { repository, manifest: digest, tags, reference: reference.descriptor, ...(origin && { origin }), why } }];
    });
  };

  let foundHere = false;
  for await (const page of localManifests(local, { ...(after !== undefined && { after }), ...(signal && { signal }) })) {
    const { repository } = page;
    const judged = await Promise.all(page.manifests.map(({ digest }) => reading(() => judgeManifest(repository, digest))));
    for (const found of judged.flat()) {
      foundHere = true;
      (found.kind === "dangling" ? dangling : unknown).add(found.finding);
    }
    if (page.last && foundHere) {
      await addTagsOfIndexes(local, repository, [dangling, unknown], signal);
      foundHere = false;
    }
    progress?.({ ...report(), after: page.cursor });
  }
  return report();
}

/** A reference of a stored manifest that cannot be had, or might not be. */
export interface Finding {
  readonly repository: string;
  readonly manifest: Digest;
  /** Of the manifest, and of indexes here that lead to it: the first hundred of each. */
  readonly tags: readonly string[];
  readonly reference: Descriptor;
  /** Where its blob reference says that the bytes are. */
  readonly origin?: Origin;
  readonly why: string;
}

/** The most tags of one manifest that a finding names. */
const tagLimit = 100;

async function tagsOf(local: StoringRegistry, repository: string, digest: Digest): Promise<readonly string[]> {
  return (await local.listTagsOf(repository, digest, { limit: tagLimit })).items;
}

/**
 * Adds to the findings of one repository the tags of indexes that lead to their manifests. Who contains a manifest is recorded nowhere, so the
 * repository's manifests are read once more for each level of indexes: only where something was found.
 */
async function addTagsOfIndexes(
  local: StoringRegistry,
  repository: string,
  lists: readonly BoundedList<Finding>[],
  signal?: AbortSignal,
): Promise<void> {
  const tags = new Map<Digest, Set<string>>();
  for (const { kept } of lists)
    for (const finding of kept) if (finding.repository === repository) tags.set(finding.manifest, new Set(finding.tags));
  const parents = new Map<Digest, readonly Digest[]>();
  for (let before = -1; tags.size > 0 && before !== parents.size; ) {
    before = parents.size;
    for await (const page of localManifests(local, { repository, ...(signal && { signal }) })) {
      for (const { digest } of page.manifests) {
        signal?.throwIfAborted();
        if (parents.has(digest)) continue;
        const children = (await readStoredManifest(local, repository, digest))?.children ?? [];
        const affected = children.map((child) => child.digest).filter((child) => tags.has(child) || parents.has(child));
        if (affected.length > 0) parents.set(digest, affected);
      }
    }
  }
  const leading = new Map<Digest, Set<string>>();
  for (const digest of parents.keys()) {
    signal?.throwIfAborted();
    leading.set(digest, new Set(await tagsOf(local, repository, digest)));
  }
  // Each level of indexes passes on what leads to it: following every way from every index would take as long as there are ways.
  for (let level = 0, changed = true; changed && level < nestingLimit; level++) {
    changed = false;
    for (const [digest, children] of parents) {
      for (const child of children) {
        const turn = spendTurn();
        if (turn) await turn;
        signal?.throwIfAborted();
        for (const name of leading.get(digest) ?? []) {
          for (const names of [leading.get(child), tags.get(child)]) {
            if (!names || names.has(name)) continue;
            names.add(name);
            changed = true;
          }
        }
      }
    }
  }
  for (const { kept } of lists) {
    for (const [index, finding] of kept.entries()) {
      const all = finding.repository === repository && tags.get(finding.manifest);
      if (all) kept[index] = { ...finding, tags: [...all].sort() };
    }
  }
}

/** Indexes in indexes: no real image goes deeper, and a chain made on purpose must not run long. */
const nestingLimit = 8;
