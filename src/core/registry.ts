import type { Awaitable } from "./awaitable.js";
import type { Content } from "./content.js";
import type { Descriptor } from "./descriptor.js";
import type { Digest, DigestAlgorithm } from "./digest.js";
import type { Lookup, ReferencedBlob } from "./lookup.js";
import type { Page, PageRequest } from "./page.js";
import type { ByteRange, ResolvedRange } from "./range.js";
import type { Duration } from "./units.js";

/** Who calls, as the host knows them. `name` identifies the principal; the rest is the host's own. */
export interface Caller {
  readonly name: string;
  readonly [attribute: string]: unknown;
}

/** Given to every operation and handed on from wrapper to wrapper. */
export interface CallOptions {
  /** Ends the operation; it then rejects with the signal's reason. Aborted already, no write is begun; a read that need not wait may answer. A fill shared with others goes on. */
  readonly signal?: AbortSignal;
  /** Absent: anonymous. */
  readonly caller?: Caller;
  /** The client's network address, for events. */
  readonly address?: string;
  /** An identifier that follows the request through events. */
  readonly trace?: string;
  /** What a cache knows of a tag is not enough: it asks its source now. */
  readonly refresh?: boolean;
  /**
   * `background`: nobody waits for it, so at a busy upstream it goes behind what somebody waits for. Nobody relies on it either: a store that is asked whether it
   * has a blob does not count it as a use.
   */
  readonly priority?: "background";
  /** The aggregates this question has passed, outermost first: one that finds itself here is asked in a loop, and says so. Wrappers hand it on. */
  readonly via?: readonly string[];
  /**
   * Those of `via` that were written by this process, or came from a peer that the host trusts. A cache shares its questions among calls that have the same. The others may
   * be made up by a client, so they find loops and nothing else. Default: none.
   */
  readonly knownVia?: readonly string[];
}

/** A manifest's exact bytes. */
export interface ManifestContent {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
}

/** A blob or a part of one. `descriptor.size` is the whole blob's. */
export interface BlobContent {
  readonly descriptor: Descriptor;
  /** Present when a range was asked for and is honoured. */
  readonly range?: ResolvedRange;
  /** Nobody said how large the blob is: `descriptor.size` means nothing. Only where {@link GetBlobOptions.unsized} permits. */
  readonly unsized?: true;
  readonly content: Content;
}

export interface GetBlobOptions extends CallOptions {
  readonly range?: ByteRange;
  /**
   * Default: true, nobody gets a complete answer of wrong bytes; a source that cannot verify a part answers the whole. `false`: the caller hashes the
   * bytes itself, as a cache does on the way into its store.
   */
  readonly verify?: boolean;
  /** The caller can follow a redirect to where the bytes are, as an HTTP client can: a store that presigns may then answer one. Default: false. */
  readonly redirect?: boolean;
  /** The blob's size as a manifest tells it, for a source that does not say. */
  readonly size?: number;
  /** The caller can do without a size (see {@link BlobContent.unsized}). Default: false, a source that does not say one is unavailable. */
  readonly unsized?: boolean;
  /**
   * Another way to the same bytes, in another registry that the caller may read: for a cache whose own source breaks off. Asked with the part that is missing.
   */
  readonly otherwise?: (range: ByteRange | undefined, o: CallOptions) => Promise<Lookup<BlobContent>>;
}

export interface DeleteOptions extends CallOptions {
  /**
   * For a delete by digest: whether a tag protects all that it reaches. The delete is DENIED where such a tag reaches what would go, at the moment of the delete. A
   * tag reaches its manifest; a manifest reaches what it names, its subject, and what refers to it as subject. Asked of every tag of the repository, so it answers
   * at once. A registry that cannot find this out refuses every delete by digest: UNSUPPORTED. Absent: no tag does.
   */
  readonly protects?: (tag: string) => boolean;
}

export interface DeleteManifestOptions extends DeleteOptions {
  /** Is told what the caller should know of a delete that succeeded, as that a connector still gives something under this name. */
  readonly warn?: (message: string) => void;
  /** Only when the reference points to this digest now, else PRECONDITION_FAILED. */
  readonly ifMatch?: string;
  /**
   * For a delete by digest: whether a tag that points to the manifest may go with it. Asked of each, also of those that are put while others are asked about; where
   * one may not, nothing is removed and the delete is DENIED, or fails with what this throws. A registry that does not know all tags of a manifest refuses the
   * delete: UNSUPPORTED. Absent: all may.
   */
  readonly permits?: (tag: string) => Awaitable<boolean>;
}

export interface MountOptions extends CallOptions {
  /**
   * For a mount without source: whether the caller may read the blob in this repository, under the name that the called registry has for it. Absent: it may
   * read them all. Each wrapper asks in its own names.
   */
  readonly permits?: (repository: string) => Awaitable<boolean>;
}

export interface PutManifestOptions extends CallOptions {
  /** Further tags for a manifest pushed by digest. (distribution-spec 1.2) */
  readonly tags?: readonly string[];
  /** Only when the reference points to this digest now, else PRECONDITION_FAILED. */
  readonly ifMatch?: string;
  /** `"*"`: only when the reference does not exist yet, else PRECONDITION_FAILED. */
  readonly ifNoneMatch?: "*";
  /**
   * `check` (default): config, layers and children must be known, else MANIFEST_BLOB_UNKNOWN. `trust`: the caller answers for them, as a
   * cache does for what its source gave.
   */
  readonly references?: "check" | "trust";
}

/** Where a mount takes its blob from. */
export interface MountSource {
  readonly registry: Registry;
  readonly repository: string;
}

/** An upload in progress: bound to its repository and caller, with one writer at a time. */
export interface UploadSession {
  /** 128 random bits; all that a client needs to resume. */
  readonly id: string;
  /** Bytes taken in so far. */
  readonly offset: number;
  /** The blob this session became; it is over then, and only a repeated commit of the same digest still succeeds. */
  readonly committed?: Digest;
  /** Milliseconds since the epoch; moved on by every append. */
  readonly expiresAt: number;
  /**
   * Appends bytes and answers the new offset.
   * @throws RegistryError RANGE_INVALID when `start` is not the current offset (nothing is appended, the session survives),
   *   SIZE_INVALID when the source does not have `length` bytes (what came, up to that length, is kept, as after a cut: see `offset`),
   *   UNAVAILABLE while somebody else writes, BLOB_UPLOAD_UNKNOWN when the session is over.
   */
  append(source: AsyncIterable<Uint8Array>, o?: { start?: number; length?: number; signal?: AbortSignal }): Promise<number>;
  /** Ends the session with a visible blob. A repeated commit succeeds. @throws RegistryError DIGEST_INVALID when the bytes are others. */
  commit(digest: string): Promise<Descriptor>;
  /** Idempotent, also after commit. */
  cancel(): Promise<void>;
}

/** How a registry is made ready. */
export interface ReadyOptions {
  readonly signal?: AbortSignal;
}

/**
 * Anything that answers for repositories: local storage, a remote, a cache, an aggregate, a view, a table of routes. Each implements this
 * interface, so each nests in each. Reads answer a {@link Lookup}, in which what is not there is absent; writes throw a `RegistryError`, and have then changed
 * nothing. `registryContract` of `oci-manifold/testing` has every promise as a case.
 *
 * Repository names, tags and digests arrive as text; implementations at the edge of the library validate them. What is malformed is NAME_INVALID, MANIFEST_INVALID (a
 * tag) or DIGEST_INVALID, before a source is read; in reads it may be absent.
 */
export interface Registry {
  /**
   * What this registry permanently is, e.g. `local release` or the URL of a remote: two values of the same identity give the same content. An
   * aggregate refuses a connector whose name stood for another identity before, since links remember names. Absent: not checked.
   */
  readonly identity?: string;
  /**
   * The one name for a repository that has several (`node` and `library/node` of Docker Hub), so that filters and caches cannot be walked around by
   * another spelling. Absent: each name is its own repository.
   */
  canonicalName?(repository: string): string;
  /** What HEAD asks. `reference` is a tag or a digest. */
  resolveManifest(repository: string, reference: string, o?: CallOptions): Promise<Lookup<Descriptor>>;
  /** The exact bytes, at most 4 MiB. */
  getManifest(repository: string, reference: string, o?: CallOptions): Promise<Lookup<ManifestContent>>;
  resolveBlob(repository: string, digest: string, o?: CallOptions): Promise<Lookup<Descriptor>>;
  /** @throws RegistryError RANGE_INVALID when the range lies outside the blob. */
  getBlob(repository: string, digest: string, o?: GetBlobOptions): Promise<Lookup<BlobContent>>;
  /** In ASCII order. Absent where there is no such repository. */
  listTags(repository: string, page: PageRequest, o?: CallOptions): Promise<Lookup<Page<string>>>;
  /** In ASCII order, by their canonical names. */
  listRepositories(page: PageRequest, o?: CallOptions): Promise<Lookup<Page<string>>>;
  /** Descriptors of the manifests whose subject is `subject`, in order of their digests. None: an empty page, or absent; the subject need not be here. */
  listReferrers(
    repository: string,
    subject: string,
    page: PageRequest & { artifactType?: string },
    o?: CallOptions,
  ): Promise<Lookup<Page<Descriptor>>>;
  /**
   * Stores a manifest under a tag or its digest. `content.mediaType` absent: the body decides.
   * @throws RegistryError MANIFEST_INVALID, DIGEST_INVALID when the bytes are others, MANIFEST_BLOB_UNKNOWN, PRECONDITION_FAILED.
   */
  putManifest(
    repository: string,
    reference: string,
    content: { readonly bytes: Uint8Array; readonly mediaType?: string },
    o?: PutManifestOptions,
  ): Promise<Descriptor>;
  /** Stores a blob whose digest is known beforehand. @throws RegistryError DIGEST_INVALID or SIZE_INVALID when the bytes are others. */
  putBlob(
    repository: string,
    expected: { readonly digest: string; readonly size?: number },
    source: AsyncIterable<Uint8Array>,
    o?: CallOptions,
  ): Promise<Descriptor>;
  /**
   * Makes a blob of another repository visible in this one, without bytes. `undefined` when it cannot: the client then uploads. The answer has no `size` where the bytes are
   * elsewhere and no manifest has told it.
   * @param from absent: from whichever repository of this registry has it and `o.permits`.
   */
  mountBlob(repository: string, digest: string, from?: MountSource, o?: MountOptions): Promise<ReferencedBlob | undefined>;
  /** @param o.algorithm what the final digest will use, where announced (default sha256); another one costs a second read at commit. */
  startUpload(repository: string, o?: CallOptions & { algorithm?: DigestAlgorithm }): Promise<UploadSession>;
  /** @throws RegistryError BLOB_UPLOAD_UNKNOWN when the session is unknown, expired, another repository's or another caller's. */
  resumeUpload(repository: string, id: string, o?: CallOptions): Promise<UploadSession>;
  /** A tag: only the tag. A digest: the manifest, every tag on it and its referrers entry. @throws RegistryError MANIFEST_UNKNOWN */
  deleteManifest(repository: string, reference: string, o?: DeleteManifestOptions): Promise<void>;
  /** Removes the repository's claim to the blob; the bytes may serve others. @throws RegistryError BLOB_UNKNOWN */
  deleteBlob(repository: string, digest: string, o?: DeleteOptions): Promise<void>;
  /** The registry that answers for `?ns=<host>`, `undefined` when there is none: a closed look-up, never a dial target. */
  forNamespace(host: string): Registry | undefined;
  /**
   * Fails when this composition cannot work (an unwritable folder); an upstream that is down is no failure. Idempotent.
   * @param o.signal ends it with its reason: a quota that is new is counted first, which takes a while where there is much.
   */
  ready(o?: ReadyOptions): Promise<void>;
  /** Ends what was created here, once, waiting for work in progress until the deadline. Idempotent. */
  close(o?: { deadline?: Duration }): Promise<void>;
}
