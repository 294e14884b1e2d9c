import { LRUCache } from "lru-cache";
import pLimit from "p-limit";
import type { Digest } from "../core/digest.js";
import type { LinkingRegistry } from "../core/linking-registry.js";
import type { Origin } from "../core/lookup.js";
import { type Reference, referencesOf } from "./availability.js";
import { BoundedList } from "./bounded-list.js";
import { addTagsOfIndexes, type Finding, tagsOf } from "./findings.js";
import { checkConcurrency } from "./in-parallel.js";
import { localManifests, readManifest } from "./local-manifests.js";

export interface AuditOptions {
  /** Ends it; it then rejects with the signal's reason. What progress told last says where to go on, and what was found up to there. */
  readonly signal?: AbortSignal;
  /** Told after every page of manifests. */
  readonly progress?: (progress: AuditProgress) => void;
  /** Goes on behind this place, as progress told it. */
  readonly after?: string;
  /** How many references are looked at, and so how many requests run, at a time. Default: 8. */
  readonly concurrency?: number;
  /** How many findings of each list are kept; more are only counted. Default: 1,000. */
  readonly limit?: number;
}

export interface AuditReport {
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

export interface AuditProgress extends AuditReport {
  /** Pass it as `after` to go on from here. */
  readonly after: string;
}

export type Verdict = { readonly kind: "well" } | { readonly kind: "dangling" | "unknown"; readonly why: string; readonly origin?: Origin };

/** So many verdicts are remembered: layers are shared by many manifests of a repository, and each is asked about once. */
const remembered = 100_000;

/** Judges every distinct reference of every manifest stored in a registry, in constant memory. */
export async function examine(
  local: LinkingRegistry,
  o: AuditOptions,
  judge: (repository: string, reference: Reference) => Promise<Verdict>,
): Promise<AuditReport> {
  const { signal, progress, after, concurrency = 8, limit = 1000 } = o;
  checkConcurrency(concurrency);
  const limited = pLimit(concurrency);
  // Apart from the requests: a manifest waits for those of its references.
  const reading = pLimit(concurrency);
  const verdicts = new LRUCache<string, Promise<Verdict>>({ max: remembered });
  const dangling = new BoundedList<Finding>(limit);
  const unknown = new BoundedList<Finding>(limit);
  let manifests = 0;
  let references = 0;
  const report = (): AuditReport => ({
    manifests,
    references,
    dangling: [...dangling.kept],
    unknown: [...unknown.kept],
    omitted: { dangling: dangling.omitted, unknown: unknown.omitted },
  });
  const verdictOf = (repository: string, reference: Reference): Promise<Verdict> => {
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
    const manifest = await readManifest(local, repository, digest);
    if (!manifest) return [];
    manifests++;
    const all = await Promise.all(
      referencesOf(manifest).map(async (reference) => ({ reference, verdict: await verdictOf(repository, reference) })),
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
