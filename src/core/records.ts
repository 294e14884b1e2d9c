import type { StagedState } from "./blob-store.js";
import type { Descriptor } from "./descriptor.js";
import type { Digest, DigestAlgorithm } from "./digest.js";
import type { Origin } from "./lookup.js";

/**
 * Everything the library remembers, by kind. `registry` is the name of the local registry or cache that owns a record (its partition). Keys
 * are tuples and stay tuples: names contain "/" and digests ":", so no character could join them safely. Times are milliseconds since the epoch.
 */
export interface RecordTypes {
  /** [registry, repository, digest]; the record's bytes are the manifest's. */
  manifest: { mediaType: string; pushedAt: number };
  /** [registry, repository, tag] */
  tag: { digest: Digest; updatedAt: number };
  /** [registry, repository, digest, tag]: tags by digest, so that deleting a manifest finds its tags without reading them all. */
  tagByDigest: Record<string, never>;
  /**
   * [registry, repository, digest]: a blob reference, the repository's claim to a blob. `size`: of bytes that were verified (older ones with an origin may have what
   * an upstream stated). `expectedSize`: what the manifest that needs it says, where the bytes are elsewhere; absent where no manifest has needed it. `usedAt`: when
   * somebody was last told that it is there, to the hour; absent: not since `linkedAt`. `condemned`: marked for deletion, since no manifest refers to it. Whoever comes
   * to rely on it unmarks it in the same commit.
   */
  link: { size?: number; expectedSize?: number; linkedAt: number; origin?: Origin; usedAt?: number; condemned?: true };
  /** [digest, registry, repository]: blob references by digest, for mounts without a source repository, for eviction and garbage collection. */
  linkByDigest: Record<string, never>;
  /** [registry, repository, subject, digest] */
  referrer: ReferrerRecord;
  /** [registry, repository, subject, artifact type, digest]: the same by its type, so that a listing of one type reads no others. */
  referrerByType: ReferrerRecord;
  /** [registry, repository]: what the catalog lists. Rewritten by every manifest put, so that a removal can be conditional on it. */
  repository: { updatedAt: number };
  /**
   * [digest], not partitioned: where the bytes are, one location a digest. `condemned`: marked for deletion. Every new blob reference is conditional on this
   * record's version and unmarks it; the removal is conditional on it too, so that nobody comes to rely on bytes that are removed.
   */
  blob: { location: string; size: number; committedAt: number; condemned?: true };
  /** [registry, digest] of a cache: a blob that may be evicted. */
  cachedBlob: { size: number; lastUsedAt: number };
  /** [registry, id] */
  upload: UploadRecord;
  /**
   * [registry, repository, tag] of a cache: when the source last answered for the tag. `lastSeenAt` only where it answered that it has the tag no more, and the
   * tag is kept: when it last had it.
   */
  freshness: { checkedAt: number; lastSeenAt?: number };
  /** [registry, scope, repository, digest]: a filter's permitted tag or index led to this digest. */
  reach: Record<string, never>;
  /** [registry, scope, repository, digest]: when a filter first met this digest. */
  firstSeen: { at: number };
  /**
   * [registry, repository, digest]: a manifest was refused, since a member stated of this digest what is not so. Until bytes are verified, every HEAD answers
   * that the blob is not there; from then on `size` is the size of the verified bytes.
   */
  distrusted: { at: number; size?: number };
  /** [registry, repository]: the member that the repository's name was first served from. */
  nameOrigin: { member: string; since: number };
  /** [registry, repository]: that an aggregate's member gave this name, and when it last did, to the day. */
  known: { member: string; lastSeenAt: number };
  /** [registry]: what a registry with a quota takes up. Rewritten with everything that changes it; absent: to be counted. */
  usage: { bytes: number; repositories: number; countedAt: number };
  /** [registry, member]: what the member's name stands for, as long as blob references may remember it. */
  member: { identity: string };
  /** [registry, repository, tag, time in 15 digits]: that a tag was promoted from elsewhere. Kept for good. */
  promotion: { digest: Digest; from: { registry?: string; repository: string }; previous?: Digest; by: string; comment?: string };
  /**
   * [digest, location]: bytes that a scrub took out of use, since they are others than their digest says or, `missing`, are not there. They are kept for a while and
   * never served; that they are found to be right, as after a restore, brings them back.
   */
  quarantine: { size: number; why: string; at: number; missing?: true };
  /**
   * [purpose, …]: who may do something alone, until when. `hops`: it still asks for an answer, by way of so many aggregates, and questions that have passed
   * more may be part of it.
   */
  lease: { holder: string; expiresAt: number; hops?: number };
}

export interface ReferrerRecord {
  /** Without its annotations where they are long. */
  descriptor: Descriptor;
  /** It has annotations that are too long for a record of which a page holds many: the manifest has them. */
  annotated?: true;
}

export interface UploadRecord {
  repository: string;
  /** The caller's name; absent for an anonymous one. */
  principal?: string;
  /** Who it counts for where callers share a limit; unwritten by older code. */
  sharer?: string;
  algorithm: DigestAlgorithm;
  offset: number;
  state: StagedState;
  startedAt: number;
  expiresAt: number;
  /** Set once the upload became a blob: a client whose response was lost may commit again, with the same answer. */
  committed?: Digest;
  /** The one writer, while there is one: a token, and when it loses its right unless it renews it. */
  writer?: { token: string; expiresAt: number };
}

export type RecordKind = keyof RecordTypes;

/** A record's name. Parts hold only printable ASCII: everything is validated before it becomes a key. */
export interface RecordKey<K extends RecordKind = RecordKind> {
  readonly kind: K;
  readonly parts: readonly string[];
}

export const recordKey = {
  manifest: (registry: string, repository: string, digest: Digest): RecordKey<"manifest"> => ({
    kind: "manifest",
    parts: [registry, repository, digest],
  }),
  tag: (registry: string, repository: string, tag: string): RecordKey<"tag"> => ({ kind: "tag", parts: [registry, repository, tag] }),
  tagByDigest: (registry: string, repository: string, digest: Digest, tag: string): RecordKey<"tagByDigest"> => ({
    kind: "tagByDigest",
    parts: [registry, repository, digest, tag],
  }),
  link: (registry: string, repository: string, digest: Digest): RecordKey<"link"> => ({
    kind: "link",
    parts: [registry, repository, digest],
  }),
  linkByDigest: (registry: string, digest: Digest, repository: string): RecordKey<"linkByDigest"> => ({
    kind: "linkByDigest",
    parts: [digest, registry, repository],
  }),
  cachedBlob: (registry: string, digest: Digest): RecordKey<"cachedBlob"> => ({ kind: "cachedBlob", parts: [registry, digest] }),
  referrer: (registry: string, repository: string, subject: Digest, digest: Digest): RecordKey<"referrer"> => ({
    kind: "referrer",
    parts: [registry, repository, subject, digest],
  }),
  referrerByType: (
    registry: string,
    repository: string,
    subject: Digest,
    artifactType: string,
    digest: Digest,
  ): RecordKey<"referrerByType"> => ({
    kind: "referrerByType",
    parts: [registry, repository, subject, artifactType, digest],
  }),
  repository: (registry: string, repository: string): RecordKey<"repository"> => ({ kind: "repository", parts: [registry, repository] }),
  reach: (registry: string, scope: string, repository: string, digest: Digest): RecordKey<"reach"> => ({
    kind: "reach",
    parts: [registry, scope, repository, digest],
  }),
  nameOrigin: (registry: string, repository: string): RecordKey<"nameOrigin"> => ({ kind: "nameOrigin", parts: [registry, repository] }),
  promotion: (registry: string, repository: string, tag: string, time: string): RecordKey<"promotion"> => ({
    kind: "promotion",
    parts: [registry, repository, tag, time],
  }),
  known: (registry: string, repository: string): RecordKey<"known"> => ({ kind: "known", parts: [registry, repository] }),
  usage: (registry: string): RecordKey<"usage"> => ({ kind: "usage", parts: [registry] }),
  firstSeen: (registry: string, scope: string, repository: string, digest: Digest): RecordKey<"firstSeen"> => ({
    kind: "firstSeen",
    parts: [registry, scope, repository, digest],
  }),
  distrusted: (registry: string, repository: string, digest: Digest): RecordKey<"distrusted"> => ({
    kind: "distrusted",
    parts: [registry, repository, digest],
  }),
  member: (registry: string, member: string): RecordKey<"member"> => ({ kind: "member", parts: [registry, member] }),
  quarantine: (digest: Digest, location: string): RecordKey<"quarantine"> => ({ kind: "quarantine", parts: [digest, location] }),
  lease: (purpose: string, ...what: readonly string[]): RecordKey<"lease"> => ({ kind: "lease", parts: [purpose, ...what] }),
  blob: (digest: Digest): RecordKey<"blob"> => ({ kind: "blob", parts: [digest] }),
  upload: (registry: string, id: string): RecordKey<"upload"> => ({ kind: "upload", parts: [registry, id] }),
  freshness: (registry: string, repository: string, tag: string): RecordKey<"freshness"> => ({
    kind: "freshness",
    parts: [registry, repository, tag],
  }),
};
