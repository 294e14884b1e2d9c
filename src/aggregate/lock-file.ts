import type { AskMember, ManifestQuestion, ManifestResolver } from "../core/connector.js";
import type { Descriptor } from "../core/descriptor.js";
import { parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { type Lookup, orThrow } from "../core/lookup.js";
import { isTag, parseRepositoryName, parseTag } from "../core/name.js";
import { allPages } from "../core/page.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { compilePatterns } from "../views/patterns.js";
import { firstFound } from "./read.js";

/** A lock file: `repository:tag` to digest. Plain JSON, made to be kept in version control. */
export type LockFile = Readonly<Record<string, string>>;

/** Which tags a lock file is written for. */
export interface LockFileSelection {
  readonly repository: string;
  /** Patterns as in a connector's `allow`. A whole tag is not looked for in the list of tags. */
  readonly tags: string | readonly string[];
}

/** A tag that is no longer what the lock file says. */
export interface MovedTag {
  readonly repository: string;
  readonly tag: string;
  readonly pinned: string;
  /** Absent: the tag is gone. */
  readonly present?: string;
}

/**
 * Writes down what is served now, sorted, for `fromLockFile`.
 *
 * @throws RegistryError MANIFEST_UNKNOWN for a tag that is not there, and the error of a registry that cannot answer: half a lock file is none.
 *
 * @example
 * ```ts
 * import { writeFileSync } from "node:fs";
 * import { localRegistry } from "oci-manifold";
 * import { createLockFile } from "oci-manifold/resolvers";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const release = localRegistry({ storage: memoryStorage(), name: "release" });
 * const written = await createLockFile(release, []); // or [{ repository: "library/node", tags: "22-*" }]
 * writeFileSync("images.lock.json", JSON.stringify(written, null, 2));
 * ```
 */
export async function createLockFile(registry: Registry, selections: readonly LockFileSelection[], o?: CallOptions): Promise<LockFile> {
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
 * import { localRegistry } from "oci-manifold";
 * import { compareLockFile } from "oci-manifold/resolvers";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const release = localRegistry({ storage: memoryStorage(), name: "release" });
 * const moved = await compareLockFile(release, { "team/app:1.0": `sha256:${"0".repeat(64)}` });
 * for (const { repository, tag, present } of moved) console.log(`${repository}:${tag} is`, present ?? "gone");
 * ```
 */
export async function compareLockFile(registry: Registry, lock: LockFile, o?: CallOptions): Promise<readonly MovedTag[]> {
  const moved: MovedTag[] = [];
  for (const { repository, tag, digest } of entriesOf(lock)) {
    const lookup = await registry.resolveManifest(repository, tag, o);
    const present = lookup.kind === "absent" ? undefined : orThrow(lookup).digest;
    if (present !== digest) moved.push({ repository, tag, pinned: digest, ...(present !== undefined && { present }) });
  }
  return moved;
}

/** @throws RegistryError NAME_INVALID, MANIFEST_INVALID or DIGEST_INVALID for an entry that cannot be. */
export function entriesOf(lock: LockFile): readonly { repository: string; tag: string; digest: string }[] {
  return Object.entries(lock).map(([key, digest]) => {
    const colon = key.lastIndexOf(":");
    return {
      repository: parseRepositoryName(key.slice(0, Math.max(0, colon))),
      tag: parseTag(key.slice(colon + 1)),
      digest: parseDigest(digest),
    };
  });
}

export interface FromLockFileOptions {
  /** Resolves digests, and tags that are not in the lock file where `onMissing` says so. Default: `firstFound`. */
  readonly otherwise?: ManifestResolver;
  /** A tag that is not in the lock file. Default: `refuse`, DENIED. */
  readonly onMissing?: "refuse" | "otherwise";
}

/**
 * A resolver by a lock file: a tag is the digest that is written there, from whichever member has it, wherever the tag has moved since.
 *
 * @throws RegistryError NAME_INVALID, MANIFEST_INVALID or DIGEST_INVALID for a malformed lock file.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry } from "oci-manifold";
 * import { createLockFile, fromLockFile } from "oci-manifold/resolvers";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * const release = localRegistry({ storage, name: "release" });
 * const locked = await createLockFile(release, []);
 * const production = aggregate({
 *   local: localRegistry({ storage, name: "production" }),
 *   connectors: [{ name: "release", source: release }],
 *   resolver: fromLockFile(locked),
 * });
 * await production.close();
 * ```
 */
export function fromLockFile(lock: LockFile, options: FromLockFileOptions = {}): ManifestResolver {
  const { otherwise = firstFound, onMissing = "refuse" } = options;
  const pins = new Map(entriesOf(lock).map(({ repository, tag, digest }) => [`${repository}:${tag}`, digest]));
  return {
    name: "fromLockFile",
    async resolve(question, ask) {
      const { repository, reference } = question;
      if (reference.includes(":")) return otherwise.resolve(question, ask);
      const name = `${repository}:${reference}`;
      const digest = pins.get(name);
      if (digest !== undefined) return byPin(question, digest, ask);
      if (onMissing === "otherwise") return otherwise.resolve(question, ask);
      return { kind: "denied", error: new RegistryError("DENIED", `${name} is not in the lock file: add it, or pull by digest`) };
    },
  };
}

function byPin<T extends Descriptor | ManifestContent>(question: ManifestQuestion, digest: string, ask: AskMember<T>): Promise<Lookup<T>> {
  const { repository, reference: tag } = question;
  return firstFound.resolve({ ...question, reference: digest }, async (member) => {
    const lookup = await ask(member, digest);
    if (lookup.kind !== "absent") return lookup;
    // A filter on tags shows a digest only after a permitted tag has led to it, and here nobody has asked for the tag yet.
    const tagged = await member.resolveManifest(repository, tag);
    return tagged.kind === "found" && tagged.value.digest === digest ? ask(member, digest) : lookup;
  });
}
