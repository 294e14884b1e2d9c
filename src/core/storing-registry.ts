import type { Descriptor } from "./descriptor.js";
import type { Digest } from "./digest.js";
import type { Origin, ReferencedBlob } from "./lookup.js";
import type { Page, PageRequest } from "./page.js";
import type { CallOptions, Registry } from "./registry.js";
import type { NameIndex } from "./search.js";

/** A repository's claim to a blob, and where its bytes are. */
export interface BlobReference {
  readonly descriptor: ReferencedBlob;
  readonly origin?: Origin;
}

/** That a tag was put here from another registry, by whom and why. */
export interface Promotion {
  readonly repository: string;
  readonly tag: string;
  readonly digest: Digest;
  /** `registry` is the source's identity, where it has one. */
  readonly from: { readonly registry?: string; readonly repository: string };
  /** What the tag pointed to before; absent when it was new. */
  readonly previous?: Digest;
  readonly by: string;
  readonly comment?: string;
  /** Milliseconds since the epoch. */
  readonly time: number;
}

/** Remembers promotions, for good. */
interface PromotionLog {
  /** The time is the log's own. */
  recordPromotion(promotion: Omit<Promotion, "time">): Promise<Promotion>;
  /** In order of tags, and of times for each tag. */
  listPromotions(repository: string, page: PageRequest & { readonly tag?: string }): Promise<Page<Promotion>>;
}

/** A registry that stores: its repositories may have blob references to bytes that are elsewhere. */
export interface StoringRegistry extends Registry, PromotionLog {
  /** It takes manifests whose content is not here. */
  readonly sparse: boolean;
  /**
   * Makes a blob visible without its bytes. `origin` says where they can be had; absent when they are in this registry's store.
   * @param blob `size` is what the manifest that needs it says, for quotas and for origins that say none; absent where no manifest is known. A size that an
   *   upstream states does not belong here. Bytes in the store have their own.
   */
  addBlobReference(repository: string, blob: ReferencedBlob, origin?: Origin, o?: CallOptions): Promise<void>;
  /** Whether the store behind this registry has the bytes, for whichever repository. Never shown to clients: it would tell what others have. */
  holdsBlob(digest: Digest): Promise<Descriptor | undefined>;
  /** The manifests stored in a repository, in order of their digests. What connectors have is not among them. */
  listManifests(repository: string, page: PageRequest): Promise<Page<Descriptor>>;
  /** The blob references of a repository, in order of their digests; where the bytes are elsewhere, with their origin. */
  listBlobReferences(repository: string, page: PageRequest): Promise<Page<BlobReference>>;
  /** The tags that point to a manifest. */
  listTagsOf(repository: string, digest: Digest, page: PageRequest): Promise<Page<string>>;
  /** When a tag was last put, or a manifest; in milliseconds since the epoch. */
  storedAt(repository: string, reference: string): Promise<number | undefined>;
  /**
   * Replaces the bytes of a blob that this store has a record of, for every repository that refers to it.
   * @throws RegistryError DIGEST_INVALID or SIZE_INVALID when the bytes are others, BLOB_UNKNOWN when there is no such record.
   */
  restoreBlob(
    expected: { readonly digest: Digest; readonly size: number },
    source: AsyncIterable<Uint8Array>,
    o?: CallOptions,
  ): Promise<void>;
  /**
   * Takes bytes of a digest into use again that a scrub had found missing or damaged, and that are right and at their location now.
   * @returns whether there were any.
   */
  readoptBlob(digest: Digest, o?: CallOptions): Promise<boolean>;
  /** What a filter let through under a scope, kept for ever: a digest under a tag filter is visible once a permitted tag led to it. */
  visibleDigests(scope: string): VisibleDigests;
  /**
   * Binds a member's name to what it stands for.
   * @throws RegistryError DENIED when the name is bound to something else already.
   */
  bindMember(name: string, identity: string): Promise<void>;
  /** Which member a repository's name was first served from. */
  nameMemory(): NameMemory;
  /** The names that members of an aggregate gave. */
  nameIndex(): NameIndex;
  /** Of which digests members have stated what is not so. */
  distrust(): Distrust;
}

/** Remembers digests of which a member stated what a manifest refuted, for all processes that share the storage. */
export interface Distrust {
  add(repository: string, digests: readonly Digest[]): Promise<void>;
  /** `undefined` where nothing was refuted. `verifiedSize`: of bytes that a member has given since, which counts instead of what members state. */
  get(repository: string, digest: Digest): Promise<{ readonly verifiedSize?: number } | undefined>;
  /** A member has given the right bytes, so many. Nothing happens where nothing was refuted. */
  verified(repository: string, digest: Digest, size: number): Promise<void>;
}

/** Where a repository's name was first served from, and when, in milliseconds since the epoch. */
export interface NameOrigin {
  readonly member: string;
  readonly since: number;
}

/** Remembers which member of an aggregate a repository's name belongs to. */
export interface NameMemory {
  get(repository: string): Promise<NameOrigin | undefined>;
  /**
   * Binds a name that is not bound, or bound to `instead`'s member.
   * @returns what it is bound to afterwards: of two at the same time one was first.
   */
  bind(repository: string, origin: NameOrigin, instead?: NameOrigin): Promise<NameOrigin>;
  /** All names that are bound, in order. */
  list(page: PageRequest): Promise<Page<NameOrigin & { readonly repository: string }>>;
}

/** Remembers which digests of a repository a permitted tag or index has led to. */
export interface VisibleDigests {
  remember(repository: string, digests: readonly Digest[]): Promise<void>;
  knows(repository: string, digest: Digest): Promise<boolean>;
  /** When a digest was first asked about here, in milliseconds since the epoch; the first question makes it now. Absent: a filter keeps it in memory. */
  firstSeen?(repository: string, digest: Digest): Promise<number>;
}
