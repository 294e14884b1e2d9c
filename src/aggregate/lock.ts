import { parseDigest } from "../core/digest.js";
import { orThrow } from "../core/lookup.js";
import { isTag, parseRepositoryName, parseTag } from "../core/name.js";
import { allPages } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { compilePatterns } from "../views/patterns.js";

/** A lock file: `repository:tag` to digest. Plain JSON, made to be kept in version control. */
export type Lock = Readonly<Record<string, string>>;

/** Which tags a lock file is written for. */
export interface LockSelection {
  readonly repository: string;
  /** Patterns as in a connector's `allow`. A whole tag is not looked for in the list of tags. */
  readonly tags: string | readonly string[];
}

/** A tag that is no longer what the lock file says. */
export interface Drift {
  readonly repository: string;
  readonly tag: string;
  readonly pinned: string;
  /** Absent: the tag is gone. */
  readonly present?: string;
}

/**
 * Writes down what is served now, sorted, for `pinned`.
 *
 * @throws RegistryError MANIFEST_UNKNOWN for a tag that is not there, and the error of a registry that cannot answer: half a lock file is none.
 *
 * @example
 * ```ts
 * import { writeFileSync } from "node:fs";
 * import { localRegistry, lock } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const release = localRegistry({ storage: memoryStorage(), name: "release" });
 * const written = await lock(release, []); // or [{ repository: "library/node", tags: "22-*" }]
 * writeFileSync("images.lock.json", JSON.stringify(written, null, 2));
 * ```
 */
export async function lock(registry: Registry, selections: readonly LockSelection[], o?: CallOptions): Promise<Lock> {
  const locked = new Map<string, string>();
  for (const { repository, tags } of selections) {
    for await (const tag of selected(registry, parseRepositoryName(repository), typeof tags === "string" ? [tags] : tags, o)) {
      locked.set(`${repository}:${tag}`, orThrow(await registry.resolveManifest(repository, tag, o)).digest);
    }
  }
  return Object.fromEntries([...locked].sort(([a], [b]) => (a < b ? -1 : 1)));
}

async function* selected(registry: Registry, repository: string, patterns: readonly string[], o?: CallOptions): AsyncGenerator<string> {
  if (patterns.every(isTag)) {
    yield* patterns;
    return;
  }
  const wanted = compilePatterns(patterns.map((pattern) => `${repository}:${pattern}`));
  const list = allPages(async (page) => orThrow(await registry.listTags(repository, page, o), "NAME_UNKNOWN"));
  for await (const tag of list) if (wanted.tag(repository, tag)) yield tag;
}

/**
 * Which tags of a lock file have moved or are gone. Ask a registry that is not itself pinned by it.
 *
 * @throws the error of a registry that cannot answer: nothing would be said of its tags.
 *
 * @example
 * ```ts
 * import { drift, localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const release = localRegistry({ storage: memoryStorage(), name: "release" });
 * const moved = await drift(release, { "team/app:1.0": `sha256:${"0".repeat(64)}` });
 * for (const { repository, tag, present } of moved) console.log(`${repository}:${tag} is`, present ?? "gone");
 * ```
 */
export async function drift(registry: Registry, lock: Lock, o?: CallOptions): Promise<readonly Drift[]> {
  const moved: Drift[] = [];
  for (const { repository, tag, digest } of entriesOf(lock)) {
    const lookup = await registry.resolveManifest(repository, tag, o);
    const present = lookup.kind === "absent" ? undefined : orThrow(lookup).digest;
    if (present !== digest) moved.push({ repository, tag, pinned: digest, ...(present !== undefined && { present }) });
  }
  return moved;
}

/** @throws RegistryError NAME_INVALID, MANIFEST_INVALID or DIGEST_INVALID for an entry that cannot be. */
export function entriesOf(lock: Lock): readonly { repository: string; tag: string; digest: string }[] {
  return Object.entries(lock).map(([key, digest]) => {
    const colon = key.lastIndexOf(":");
    return {
      repository: parseRepositoryName(key.slice(0, Math.max(0, colon))),
      tag: parseTag(key.slice(colon + 1)),
      digest: parseDigest(digest),
    };
  });
}
