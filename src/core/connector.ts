import type { Descriptor } from "./descriptor.js";
import type { Lookup } from "./lookup.js";
import type { CallOptions, ManifestContent, Registry } from "./registry.js";

/** How a repository is called in the source and in the aggregate. */
export interface NameMapping {
  /** The source's name for one of ours, or `undefined` when no name of ours is meant. */
  toSource(name: string): string | undefined;
  /** Our name for one of the source's, or `undefined` when it is not shown here. */
  fromSource(name: string): string | undefined;
}

/** The declaration that another registry's content is visible here. A plain object. */
export interface Connector {
  /** Permanent: links remember it. Lower-case letters, digits and `-`. */
  readonly name: string;
  readonly source: Registry;
  /** Absent: names are the same on both sides. */
  readonly rename?: NameMapping;
  /**
   * Patterns over the source's names, `repository` or `repository:tag`; `*` stays within a segment, `**` crosses segments. Absent: all;
   * `[]`: nothing. Enforced for digests and blobs too.
   */
  readonly allow?: readonly string[];
  /** As `allow`; what matches here is not visible, whatever `allow` says. */
  readonly block?: readonly string[];
  /** `names` (default): asked by name. `links`: asked only through links and mounts, never by name. */
  readonly reach?: "names" | "links";
  /** `stop` (default): a refusal or failure of this connector ends the search by tag. `next`: the next member is asked. */
  readonly onFailure?: "stop" | "next";
  /** `onPush` (default): content that a pushed manifest refers to is copied here afterwards. `never`: it stays behind the connector. */
  readonly bringHome?: "onPush" | "never";
}

/** One registry of an aggregate, as a resolver sees it: names already mapped, filters already applied. */
export interface Member {
  readonly name: string;
  readonly onFailure: "stop" | "next";
  resolveManifest(repository: string, reference: string, o?: CallOptions): Promise<Lookup<Descriptor>>;
  getManifest(repository: string, reference: string, o?: CallOptions): Promise<Lookup<ManifestContent>>;
}

/** Decides which member answers for a manifest. */
export interface ManifestResolver {
  /**
   * @param ask puts the question of the moment (HEAD or GET) to one member.
   * @returns the answer, its path of members already told.
   */
  resolve<T>(
    question: { readonly repository: string; readonly reference: string; readonly members: readonly Member[] },
    ask: (member: Member) => Promise<Lookup<T>>,
  ): Promise<Lookup<T>>;
}
