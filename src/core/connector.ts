import type { Descriptor } from "./descriptor.js";
import type { ContentFilter } from "./filter.js";
import type { Lookup } from "./lookup.js";
import type { ManifestContent, Registry } from "./registry.js";

/** How a repository is called in the source and in the aggregate. */
export interface NameMapping {
  /** The source's name for one of ours, or `undefined` when no name of ours is meant. */
  toSource(name: string): string | undefined;
  /** Our name for one of the source's, or `undefined` when it is not shown here. */
  fromSource(name: string): string | undefined;
  /** Where all it does is to exchange one prefix for another, names keep their order: catalogs are then passed on page by page, not read and sorted. */
  readonly prefixes?: { readonly ours: string; readonly theirs: string };
}

/** The declaration that another registry's content is visible here. A plain object; the filter speaks of the source's names. */
export interface Connector extends ContentFilter {
  /** Permanent: blob references remember it. Lower-case letters, digits and `-`. */
  readonly name: string;
  readonly source: Registry;
  /** Absent: names are the same on both sides. */
  readonly rename?: NameMapping;
  /** `names` (default): asked by name. `links`: asked only through blob references and mounts, never by name. */
  readonly reach?: "names" | "links";
  /** `stop` (default): a refusal or failure of this connector ends the search by tag. `next`: the next member is asked. */
  readonly onFailure?: "stop" | "next";
  /**
   * `onPush` (default): content that a pushed manifest refers to is copied here afterwards. `onPull`: what is pulled through a blob reference is. `never`: it stays
   * behind the connector.
   */
  readonly copyToLocal?: "onPush" | "onPull" | "never";
}

/**
 * One registry of an aggregate, as a resolver sees it for one question: names already mapped, filters already applied, and the question's own options (its signal,
 * its caller) given to every call.
 */
export interface Member {
  readonly name: string;
  readonly onFailure: "stop" | "next";
  resolveManifest(repository: string, reference: string): Promise<Lookup<Descriptor>>;
  getManifest(repository: string, reference: string): Promise<Lookup<ManifestContent>>;
}

/** What a resolver is asked: who answers for a manifest. */
export interface ManifestQuestion {
  readonly repository: string;
  /** A tag or a digest. */
  readonly reference: string;
  /** In the order of the aggregate, its own registry first, called `local`. */
  readonly members: readonly Member[];
}

/**
 * Puts the question of the moment (HEAD or GET) to one member.
 * @param reference another one than the question's, as the digest that a tag is pinned to.
 */
export type AskMember<T> = (member: Member, reference?: string) => Promise<Lookup<T>>;

/** Decides which member answers for a manifest. */
export interface ManifestResolver {
  /** What `explain` calls it. Default: `custom`. */
  readonly name?: string;
  /**
   * @returns the answer, its path of members already told.
   */
  resolve<T extends Descriptor | ManifestContent>(question: ManifestQuestion, ask: AskMember<T>): Promise<Lookup<T>>;
}
