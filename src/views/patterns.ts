import { RegistryError } from "../core/errors.js";
import { compileGlob, type Glob } from "./glob.js";

/** What the patterns say of a repository as a whole: everything in it is visible, nothing, or only what some tags lead to. */
export type RepositoryVerdict = "all" | "none" | "tags";

export interface Patterns {
  repository(name: string): RepositoryVerdict;
  tag(repository: string, tag: string): boolean;
}

interface Pattern {
  readonly repository: Glob;
  /** Absent: the pattern speaks of the whole repository. */
  readonly tag?: Glob;
}

/**
 * Compiles `allow` and `block`: `repository` or `repository:tag`, where `*` stays within a segment and `**` crosses segments. No `allow` means all, an
 * empty one nothing; what is blocked stays blocked.
 *
 * @throws RegistryError NAME_INVALID for a pattern that can match no name.
 */
export function compilePatterns(allow: readonly string[] | undefined, block: readonly string[] = []): Patterns {
  const allowed = (allow ?? ["**"]).map(compile);
  const blocked = block.map(compile);
  return {
    repository(name) {
      const permits = allowed.filter((pattern) => pattern.repository(name));
      const refusals = blocked.filter((pattern) => pattern.repository(name));
      if (permits.length === 0 || refusals.some((pattern) => !pattern.tag)) return "none";
      return permits.some((pattern) => !pattern.tag) && refusals.length === 0 ? "all" : "tags";
    },
    tag(repository, tag) {
      const matches = (pattern: Pattern) => pattern.repository(repository) && (pattern.tag?.(tag) ?? true);
      return allowed.some(matches) && !blocked.some(matches);
    },
  };
}

function compile(text: string): Pattern {
  // The characters of names and tags, and the stars; later additions to the grammar use others.
  const match = /^([a-z0-9._\-/*]+)(?::([A-Za-z0-9._\-*]+))?$/.exec(text);
  if (!match?.[1]) {
    throw new RegistryError(
      "NAME_INVALID",
      `${JSON.stringify(text)} is not a pattern: write "repository" or "repository:tag" in lower case, with * and **`,
    );
  }
  return { repository: compileGlob(match[1]), ...(match[2] !== undefined && { tag: compileGlob(match[2]) }) };
}
