import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import type { LinkingRegistry } from "../core/linking-registry.js";
import type { Origin } from "../core/lookup.js";
import { spendTurn } from "../core/turn-budget.js";
import type { BoundedList } from "./bounded-list.js";
import { localManifests, readManifest } from "./local-manifests.js";

/** A reference of a stored manifest that cannot be had, or might not be. */
export interface Finding {
  readonly repository: string;
  readonly manifest: Digest;
  /** Of the manifest, and of indexes here that lead to it: the first hundred of each. */
  readonly tags: readonly string[];
  readonly reference: Descriptor;
  /** Where its link says that the bytes are. */
  readonly origin?: Origin;
  readonly why: string;
}

/** The most tags of one manifest that a finding names. */
const tagLimit = 100;

export async function tagsOf(local: LinkingRegistry, repository: string, digest: Digest): Promise<readonly string[]> {
  return (await local.listTagsOf(repository, digest, { limit: tagLimit })).items;
}

/**
 * Adds to the findings of one repository the tags of indexes that lead to their manifests. Who contains a manifest is recorded nowhere, so the
 * repository's manifests are read once more for each level of indexes: only where something was found.
 */
export async function addTagsOfIndexes(
  local: LinkingRegistry,
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
        const children = (await readManifest(local, repository, digest))?.children ?? [];
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
