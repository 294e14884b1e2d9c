import { LRUCache } from "lru-cache";
import type { Digest } from "../core/digest.js";
import { parseDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { followManifest, type Manifest } from "../core/manifest.js";
import { protectedContent } from "../core/protected-content.js";
import { recordKey } from "../core/records.js";
import { keptReferences } from "../core/references.js";
import { spendTurn } from "../core/turn-budget.js";
import { recordPages } from "./every-record.js";
import type { Partition } from "./partition.js";

/** What one manifest needs. `unreadable`: it is stored, and cannot be parsed. */
type Needs = { readonly names: readonly Digest[]; readonly subject?: Digest } | "unreadable";

/** Some 100 bytes each: the manifests of some 20,000 images. In larger repositories each delete reads the rest again. */
const keptNames = 200_000;
const pageSize = 1000;
/** Bytes that are scanned in one unit of work. */
const unit = 4096;

/** Bytes under a digest never change, so what one registry has read the others need not. */
const known = new LRUCache<Digest, Exclude<Needs, "unreadable">>({ maxSize: keptNames, sizeCalculation: ({ names }) => names.length + 2 });

/**
 * Refuses a delete of what a protected tag reaches. No record tells which manifests name a digest, and to keep one would cost every push as many writes as its manifest
 * has references; deletes under protection are rare. So the manifests are followed from the protected tags on. What they name is remembered: a later delete reads
 * names of tags and manifests, and only manifests that are new.
 *
 * It holds for the moment of the commit where that is conditional on the version that the repository's record had before: every put of a manifest rewrites it.
 *
 * @throws RegistryError DENIED with the tag.
 */
export async function assertUnprotected(
  partition: Partition,
  repository: string,
  digest: Digest,
  protects: (tag: string) => boolean,
): Promise<void> {
  const reached = new Map<Digest, string>();
  for await (const page of recordPages(partition.metadata, "tag", [partition.name, repository])) {
    for (const { key, value } of page) {
      const turn = spendTurn();
      if (turn) await turn;
      const tag = key.parts[2] ?? "";
      if (!protects(tag)) continue;
      if (value.digest === digest) throw protectedContent(digest, tag);
      reached.set(value.digest, tag);
    }
  }
  if (reached.size === 0) return;
  const { manifests, referrers } = await referrersIn(partition, repository);
  // A map goes on with what is added while it is walked.
  for (const [at, tag] of reached) {
    const turn = spendTurn();
    if (turn) await turn;
    const needs = manifests.has(at) ? await needsOf(partition, repository, at) : undefined;
    if (needs === undefined) continue;
    if (needs === "unreadable") {
      throw new RegistryError(
        "DENIED",
        `what ${at} needs, which ${tag} protects, cannot be read: nothing is deleted by digest before it is repaired`,
      );
    }
    for (const next of [...needs.names, ...(needs.subject ? [needs.subject] : []), ...(referrers.get(at) ?? [])]) {
      if (next === digest) throw protectedContent(digest, tag);
      if (manifests.has(next) && !reached.has(next)) reached.set(next, tag);
    }
  }
}

/** All manifests of a repository, and those that have a subject by that. */
async function referrersIn(
  partition: Partition,
  repository: string,
): Promise<{ readonly manifests: ReadonlySet<Digest>; readonly referrers: ReadonlyMap<Digest, readonly Digest[]> }> {
  const manifests = new Set<Digest>();
  const referrers = new Map<Digest, Digest[]>();
  for (let after: string | undefined; ; ) {
    const under = [partition.name, repository];
    const page = await partition.metadata.names({ kind: "manifest", under, limit: pageSize, ...(after !== undefined && { after }) });
    for (const name of page) {
      const turn = spendTurn();
      if (turn) await turn;
      const digest = parseDigest(name);
      const needs = await needsOf(partition, repository, digest);
      if (needs === undefined) continue;
      manifests.add(digest);
      if (needs === "unreadable" || !needs.subject) continue;
      const others = referrers.get(needs.subject);
      if (others) others.push(digest);
      else referrers.set(needs.subject, [digest]);
    }
    after = page.at(-1);
    if (page.length < pageSize) return { manifests, referrers };
  }
}

/** `undefined` when there is no such manifest. */
async function needsOf({ name, metadata }: Partition, repository: string, digest: Digest): Promise<Needs | undefined> {
  const kept = known.get(digest);
  if (kept) return kept;
  const stored = await metadata.get(recordKey.manifest(name, repository, digest));
  if (!stored?.bytes) return undefined;
  const turn = spendTurn(Math.ceil(stored.bytes.byteLength / unit));
  if (turn) await turn;
  let manifest: Manifest;
  try {
    manifest = followManifest(stored.bytes, stored.value.mediaType);
  } catch (error) {
    if (isRegistryError(error)) return "unreadable";
    throw error;
  }
  const { subject } = manifest;
  const needs = { names: keptReferences(manifest).map((named) => named.digest), ...(subject && { subject: subject.digest }) };
  known.set(digest, needs);
  return needs;
}
