import { isDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { protectingTag } from "../core/protected-content.js";
import type { DeleteOptions, Registry } from "../core/registry.js";
import { isAttachedTag } from "./attached-tags.js";
import { putImmutable } from "./immutable-tags.js";
import { behindNamespaces, intercept } from "./intercept.js";
import { followRelease, isManaged, type ManagedTags } from "./managed-tags.js";
import { compilePatterns } from "./patterns.js";

/** Which tags a rule is for. Tags of signatures and the like (`sha256-….sig`, `sha256-…`) never: their tools move them. */
export interface TagScope {
  /** Patterns as in `allow`. Default: all tags. */
  readonly tags?: readonly string[];
  /** Patterns of tags that the rule leaves alone. Default: none. */
  readonly except?: readonly string[];
}

export interface TagRules {
  /** These tags keep what they were first pushed with: they are neither moved nor deleted, nor is anything that they reach. Default: none. */
  readonly immutable?: TagScope;
  /** These tags must be semantic versions: `1.4.2`, `v1.4.2-rc.1`. Default: none. */
  readonly semverOnly?: TagScope;
  /** `latest`, `1` and `1.4` follow the highest release that is pushed; nobody pushes or deletes them. Default: none. */
  readonly managed?: ManagedTags & { /** Patterns of repositories. Default: all. */ readonly repositories?: readonly string[] };
}

/** semver.org, but for build metadata: a tag cannot hold "+", Helm writes "_" for it. */
const semanticVersion = /^v?(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?(?:_[0-9A-Za-z._-]+)?$/;

/**
 * A registry whose tags keep rules. What breaks one is DENIED, with a message that names the rule.
 *
 * @throws RegistryError NAME_INVALID for a malformed pattern.
 *
 * @example
 * ```ts
 * import { localRegistry, tagRules } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const release = tagRules(localRegistry({ storage: memoryStorage(), name: "release" }), {
 *   immutable: { except: ["**:nightly"] },
 *   semverOnly: { except: ["**:nightly"] },
 *   managed: { latest: true, major: true, minor: true },
 * });
 * await release.deleteManifest("team/app", "1.4.2").catch((error) => console.log(error.code)); // DENIED: immutable
 * ```
 */
export function tagRules(registry: Registry, rules: TagRules): Registry {
  const isImmutable = scoped(rules.immutable);
  const mustBeVersion = scoped(rules.semverOnly);
  const { managed = {} } = rules;
  const follows = compilePatterns(managed.repositories);
  const canonical = (name: string) => registry.canonicalName?.(name) ?? name;
  const managedHere = (repository: string, tag: string) => follows.repository(repository) !== "none" && isManaged(tag, managed);
  const keeps = (repository: string, tag: string) => isImmutable(repository, tag) && !managedHere(repository, tag);

  const assertChangeable = (access: "push" | "delete", repository: string, tag: string): void => {
    const what = `${repository}:${tag}`;
    if (managedHere(repository, tag)) throw denied(`${what} follows the highest release by the rule "managed": push a version instead`);
    if (access === "delete" && isImmutable(repository, tag)) throw denied(`${what} cannot be deleted by the rule "immutable"`);
    if (access === "push" && mustBeVersion(repository, tag) && !semanticVersion.test(tag)) {
      throw denied(`${what} is no semantic version, as the rule "semverOnly" demands: name it like 1.4.2 or 1.4.2-rc.1`);
    }
  };

  /** Deletes by digest. The registry that stores the content finds what an immutable tag reaches, in one step with the delete. */
  const keepingProtected = async <O extends DeleteOptions>(
    name: string,
    digest: string,
    o: O | undefined,
    run: (o: (O & DeleteOptions) | DeleteOptions | undefined) => Promise<void>,
  ): Promise<void> => {
    const repository = canonical(name);
    if (!rules.immutable) return run(o);
    try {
      await run({ ...o, protects: (tag) => keeps(repository, tag) || (o?.protects?.(tag) ?? false) });
    } catch (error) {
      const tag = protectingTag(error);
      if (tag === undefined || !keeps(repository, tag)) throw error;
      throw new RegistryError("DENIED", `${repository}:${tag} needs ${digest}, which cannot be deleted by the rule "immutable"`, {
        detail: { digest, protectedBy: tag },
      });
    }
  };

  return intercept(
    registry,
    ({ access, repository: name, reference }) => {
      if (reference !== undefined && !isDigest(reference) && (access === "push" || access === "delete"))
        assertChangeable(access, canonical(name), reference);
      return name;
    },
    (guarded) => ({
      ...behindNamespaces(registry, (behind) => tagRules(behind, rules)),
      async putManifest(name, reference, content, o) {
        const repository = canonical(name);
        const tags = [...(isDigest(reference) ? [] : [reference]), ...(o?.tags ?? [])];
        // All of them, before the first is set.
        for (const tag of tags) assertChangeable("push", repository, tag);
        const stored = tags.some((tag) => keeps(repository, tag))
          ? await putImmutable(guarded, name, reference, content, (tag) => keeps(repository, tag), o)
          : await guarded.putManifest(name, reference, content, o);
        if (follows.repository(repository) !== "none") for (const tag of tags) await followRelease(registry, name, tag, managed, o);
        return stored;
      },
      deleteManifest: (name, reference, o) =>
        isDigest(reference)
          ? keepingProtected(name, reference, o, (kept) => guarded.deleteManifest(name, reference, kept))
          : guarded.deleteManifest(name, reference, o),
      deleteBlob: (name, digest, o) => keepingProtected(name, digest, o, (kept) => guarded.deleteBlob(name, digest, kept)),
    }),
  );
}

function scoped(scope: TagScope | undefined): (repository: string, tag: string) => boolean {
  if (!scope) return () => false;
  const patterns = compilePatterns(scope.tags, scope.except);
  return (repository, tag) => patterns.tag(repository, tag) && !isAttachedTag(tag);
}

function denied(message: string): RegistryError {
  return new RegistryError("DENIED", message);
}
