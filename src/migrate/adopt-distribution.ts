import pLimit from "p-limit";
import type { NameMapping } from "../core/connector.js";
import type { DistributionStorage } from "../core/distribution-storage.js";
import { RegistryError } from "../core/errors.js";
import { isRepositoryName, parseRepositoryName } from "../core/name.js";
import type { LocalRegistry } from "../local/local-registry.js";
import { checkConcurrency, inParallel } from "../maintenance/in-parallel.js";
import { compilePatterns } from "../views/patterns.js";
import { AdoptImages, itemError } from "./adopt-images.js";
import { AdoptCounts, type AdoptProgress, type AdoptReport } from "./adopt-report.js";
import { type AdoptTagsOptions, adoptTag, removeTags } from "./adopt-tags.js";
import { DistributionTree } from "./distribution-tree.js";
import { endedSource } from "./ended-source.js";

export type { AdoptProgress, AdoptReport } from "./adopt-report.js";

export interface AdoptOptions {
  /** Names and patterns, as in a connector's `allow`, of the repositories there; without tags. Default: all. */
  readonly repositories?: readonly string[];
  /** How repositories there are called here; those that are not called anything are left out. Default: the same. */
  readonly rename?: NameMapping;
  /** `all` (default): every blob is read and hashed before anybody can pull it. `size`: a blob is trusted when it has the size that its manifest says. */
  readonly verify?: "all" | "size";
  /** Whether manifests come that no tag leads to: clients may pull them by digest. Default: true. */
  readonly untagged?: boolean;
  /** What becomes of a tag that is gone there. `remove`: it goes here too, if it points to something that the old registry has. Default: `keep`. */
  readonly deletedTags?: "keep" | "remove";
  /** Ends it, with the signal's reason. What came stays. */
  readonly signal?: AbortSignal;
  /** Called with every item, and every few megabytes. */
  readonly progress?: (progress: AdoptProgress) => void;
  /** Goes on behind this repository, as progress gave it. */
  readonly after?: string;
  /** How many manifests, and how many blobs, are looked at or taken at a time. Default: 4. */
  readonly concurrency?: number;
  /** How many entries each list of the report keeps; more are only counted. Default: 1,000. */
  readonly limit?: number;
}

/**
 * Makes the repositories of a docker-registry (distribution, v2 and v3) served here, from what it keeps in its folder or bucket: blobs by hard links or copies within the
 * object store where that is possible, manifests byte for byte, and tags as they are. The old registry may be running; nothing of it is changed. A second run takes only
 * what is new. A tag that was moved here since, to something that it never pointed to there, is left and reported.
 *
 * Repositories are read one after the other. One file that is missing, damaged or of no use is reported, and the rest goes on.
 *
 * @throws RegistryError UNAVAILABLE when the source cannot be read, INSUFFICIENT_STORAGE or DENIED when the store or the quota is full, NAME_INVALID for a malformed pattern or
 *   `after`, UNKNOWN for a `concurrency` that is no whole number from 1; the signal's reason.
 *
 * @example
 * ```ts
 * import { existsSync } from "node:fs";
 * import { localRegistry } from "oci-manifold";
 * import { adoptDistribution, distributionFolder } from "oci-manifold/migrate";
 * import { fileStorage } from "oci-manifold/storage/files";
 *
 * const release = localRegistry({ storage: fileStorage("./data"), name: "release" });
 * await release.ready();
 * if (existsSync("/var/lib/registry/docker/registry/v2/repositories")) {
 *   const { complete, incomplete, skipped } = await adoptDistribution(release, distributionFolder("/var/lib/registry"), {
 *     progress: ({ repository, done, items, linked }) => console.log(repository, `${done} of ${items}`, linked),
 *   });
 *   if (!complete) for (const { repository, reference, why } of [...incomplete, ...skipped]) console.log(repository, reference, why);
 * }
 * await release.close();
 * ```
 */
export async function adoptDistribution(
  registry: LocalRegistry,
  source: DistributionStorage,
  options: AdoptOptions = {},
): Promise<AdoptReport> {
  const { signal } = options;
  signal?.throwIfAborted();
  try {
    return await adoptAll(registry, endedSource(source, signal), options);
  } catch (error) {
    // Of a read that the signal ended it may say that nothing can be read.
    signal?.throwIfAborted();
    throw error;
  }
}

async function adoptAll(registry: LocalRegistry, source: DistributionStorage, options: AdoptOptions): Promise<AdoptReport> {
  const { signal, after, concurrency = 4, limit = 1000, rename, verify = "all" } = options;
  checkConcurrency(concurrency);
  const isWanted = wanted(options.repositories);
  const start = after === undefined ? undefined : parseRepositoryName(after);
  const tree = new DistributionTree(source);
  const counts = new AdoptCounts(limit, start, options.progress);
  const blobLimit = pLimit(concurrency);

  for await (const found of tree.repositories(start)) {
    signal?.throwIfAborted();
    const { name: from, problem } = found;
    if (problem !== undefined) {
      counts.problem("skipped", { repository: from, why: problem });
      continue;
    }
    const to = !isWanted(from) ? undefined : rename ? rename.fromSource(from) : from;
    if (to === undefined) continue;
    if (!isRepositoryName(to)) {
      counts.problem("skipped", {
        repository: from,
        why: `it would be called ${JSON.stringify(to.slice(0, 300))}, which is no repository name`,
      });
      continue;
    }
    counts.begin(from);
    const names = { from, to };
    const images = new AdoptImages({ registry, storage: source, tree, counts, names, verify, blobLimit, signal });
    try {
      await adoptRepository({ registry, tree, counts, images, names, signal, unreadable: new Set() }, options, concurrency);
    } catch (error) {
      signal?.throwIfAborted();
      counts.problem("skipped", { repository: from, why: itemError(error).message });
    }
    counts.end(from);
  }
  return counts.report();
}

async function adoptRepository(o: AdoptTagsOptions, options: AdoptOptions, concurrency: number): Promise<void> {
  const { tree, counts, images, names, signal } = o;
  const skipped = (reference: string, why: string) => counts.problem("skipped", { repository: names.from, reference, why });
  if (options.untagged ?? true) {
    await inParallel(tree.revisions(names.from), { concurrency, signal }, async ({ name, problem }) => {
      if (problem === undefined) await images.manifest(name);
      else skipped(name, problem);
    });
  }
  await inParallel(tree.tags(names.from), { concurrency, signal }, async ({ name, problem }) => {
    if (problem === undefined) await adoptTag(o, name);
    else skipped(name, problem);
  });
  if (options.deletedTags === "remove") await removeTags(o);
}

function wanted(patterns: readonly string[] | undefined): (repository: string) => boolean {
  const withTag = patterns?.find((pattern) => pattern.includes(":"));
  if (withTag !== undefined)
    throw new RegistryError("NAME_INVALID", `${JSON.stringify(withTag)} names a tag: repositories are taken with all their tags`);
  const compiled = compilePatterns(patterns);
  return (repository) => compiled.repository(repository) === "all";
}
