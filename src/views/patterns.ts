import { RegistryError } from "../core/errors.js";
import { compileRange, parseVersion } from "./semver.js";

/** What the patterns say of a repository as a whole: all of it is visible, nothing, or only what some tags lead to. */
type RepositoryVerdict = "all" | "none" | "tags";

/** Whether something may be seen, and the pattern that decided, as it was written; without one no pattern matched. */
interface PatternVerdict {
  readonly visible: boolean;
  readonly pattern?: string;
}

export interface Patterns {
  repository(name: string): RepositoryVerdict;
  tag(repository: string, tag: string): boolean;
  /** Why a repository, or a tag in it, may be seen or not. */
  verdict(repository: string, tag?: string): PatternVerdict;
  /** Whether a pattern refuses it, rather than none permitting it. */
  blocks(repository: string, tag: string): boolean;
}

interface Pattern {
  readonly text: string;
  readonly repository: Glob;
  /** Absent: the pattern speaks of the whole repository. */
  readonly tag?: Glob;
}

/**
 * Compiles `allow` and `block`: `repository` or `repository:tag`, where `*` stays within a segment and `**` crosses segments. No `allow` means all, an
 * empty one nothing; what is blocked stays blocked. A tag is a glob or a range of versions, `{>=20.1 <23}`, with a glob for what follows the version:
 * `{>=20}-alpine*`, `{>=20}*`.
 *
 * @throws RegistryError NAME_INVALID for a pattern that can match no name.
 */
export function compilePatterns(allow: readonly string[] | undefined, block: readonly string[] = []): Patterns {
  const allowed = (allow ?? ["**"]).map(compile);
  const blocked = block.map(compile);
  const matches = (repository: string, tag: string) => (pattern: Pattern) => pattern.repository(repository) && (pattern.tag?.(tag) ?? true);
  const said = (visible: boolean, by: Pattern | undefined): PatternVerdict => ({
    visible,
    ...(by && !(by === allowed[0] && allow === undefined) && { pattern: by.text }),
  });
  return {
    repository(name) {
      const permits = allowed.filter((pattern) => pattern.repository(name));
      const refusals = blocked.filter((pattern) => pattern.repository(name));
      if (permits.length === 0 || refusals.some((pattern) => !pattern.tag)) return "none";
      return permits.some((pattern) => !pattern.tag) && refusals.length === 0 ? "all" : "tags";
    },
    tag: (repository, tag) => allowed.some(matches(repository, tag)) && !blocked.some(matches(repository, tag)),
    verdict(repository, tag) {
      const deciding = (pattern: Pattern) =>
        pattern.repository(repository) && (tag === undefined ? !pattern.tag : (pattern.tag?.(tag) ?? true));
      const refusal = blocked.find(deciding);
      if (refusal) return said(false, refusal);
      const permit = allowed.find(tag === undefined ? (pattern) => pattern.repository(repository) : deciding);
      return said(permit !== undefined, permit);
    },
    blocks: (repository, tag) => blocked.some(matches(repository, tag)),
  };
}

// The characters of names and tags, and the stars; a range is in braces, which neither has. Later additions to the grammar use others.
const patternForm = /^([a-z0-9._\-/*]+)(?::(?:([A-Za-z0-9._\-*]+)|\{([^{}]+)\}([A-Za-z0-9._\-*]*)))?$/;

function compile(text: string): Pattern {
  const [, repository, tag, range, suffix] = patternForm.exec(text) ?? [];
  if (!repository) {
    throw new RegistryError(
      "NAME_INVALID",
      `${JSON.stringify(text)} is not a pattern: write "repository", "repository:tag" or "repository:{>=1.2 <3}" in lower case, with * and **`,
    );
  }
  const matching = range === undefined ? (tag === undefined ? undefined : compileGlob(tag)) : compileVersions(range, suffix ?? "");
  return { text, repository: compileGlob(repository), ...(matching && { tag: matching }) };
}

function compileVersions(range: string, suffix: string): Glob {
  const [within, follows] = [compileRange(range), compileGlob(suffix)];
  return (tag) => {
    const version = parseVersion(tag);
    return version !== undefined && follows(version.suffix) && within(version);
  };
}

/** Whether a text matches. */
export type Glob = (text: string) => boolean;

/**
 * Compiles a pattern in which `*` stands for any characters but "/", and `**` for any characters. Matched by following all ways at once: as a regular
 * expression several stars would take exponential time on names that clients choose.
 */
export function compileGlob(pattern: string): Glob {
  const tokens = pattern.match(/\*\*|[\s\S]/g) ?? [];
  if (!pattern.includes("*")) return (text) => text === pattern;
  return (text) => {
    let states = new Set<number>();
    follow(tokens, 0, states);
    for (const character of text) {
      const next = new Set<number>();
      for (const state of states) {
        const token = tokens[state];
        if (token === "**" || (token === "*" && character !== "/")) follow(tokens, state, next);
        else if (token === character) follow(tokens, state + 1, next);
      }
      if (next.size === 0) return false;
      states = next;
    }
    return states.has(tokens.length);
  };
}

/** Adds a state, and those behind it as long as stars match nothing. */
function follow(tokens: readonly string[], from: number, states: Set<number>): void {
  for (let state = from; !states.has(state); state++) {
    states.add(state);
    if (tokens[state] !== "*" && tokens[state] !== "**") return;
  }
}
