import type { Readable } from "node:stream";
import type { Digest } from "./digest.js";
import type { Page, PageRequest } from "./page.js";

/** Whatever a store must remember about a staged upload between two requests; plain JSON, at most a few KiB. */
export type StagedState = { readonly [key: string]: string | number | boolean | null | readonly (string | number)[] };

export interface AppendOptions {
  /** Called with the size after bytes became readable by `read`. */
  readonly progress?: (size: number) => void;
  readonly signal?: AbortSignal;
  /** Called when a write finds the storage full: after `true` it is tried again. A store that cannot try again need not call it. */
  readonly makeRoom?: () => Promise<boolean>;
}

/** Bytes on their way in, not visible to anyone. The owner is whoever staged them, under an id of 128 random bits. */
export interface Staged {
  /** Bytes that will survive a `reopen` with the present `state`. */
  readonly size: number;
  /** What `reopen` needs, also in another process or on another machine. */
  readonly state: StagedState;
  /**
   * Appends the source. When the source fails, what came before is kept and `size` says how much; the error is thrown on.
   */
  append(source: AsyncIterable<Uint8Array>, o?: AppendOptions): Promise<void>;
  /**
   * Makes the bytes durable under a location never used before, and answers it. The store does not hash: the caller vouches for the digest.
   * Nothing refers to a location until the metadata says so; one that is never recorded is garbage.
   */
  commit(digest: Digest): Promise<string>;
  /** Idempotent, also after commit (which it does not undo). */
  abort(): Promise<void>;
  /** Reads what has been appended so far, end inclusive. Only where `capabilities.readStaged`. */
  read?(range: { start: number; end: number }): Readable;
}

export interface BlobStoreCapabilities {
  /** Staged bytes can be read while they are appended: a cache then needs no second copy. */
  readonly readStaged: boolean;
  /** A client can be sent to the bytes: `presign` answers URLs. */
  readonly presign: boolean;
}

/** Bytes that another program keeps, where a store may be able to reach them by itself: a file of this machine, or an object of a bucket. */
export type ForeignBytes =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "object"; readonly bucket: string; readonly key: string };

/**
 * Where bytes live. It knows digests only as names and no repositories; what is visible to whom is the metadata's business. A blob store belongs to
 * exactly one metadata store. The interface fits what is hardest to fit: object stores without append or rename, where each request of an
 * upload may reach another machine.
 */
export interface BlobStore {
  readonly capabilities: BlobStoreCapabilities;
  stage(id: string): Promise<Staged>;
  /** Continues what `stage` began. `size` may be smaller than last seen: a lost tail. @throws RegistryError BLOB_UPLOAD_UNKNOWN when it is gone. */
  reopen(id: string, state: StagedState): Promise<Staged>;
  /** A stream of a committed blob; errors arrive on the stream. `range` is inclusive and lies within the blob. */
  read(location: string, o?: { range?: { start: number; end: number } }): Readable;
  /** Idempotent. A location is never used again, so that a late delete cannot hit a newer write. */
  delete(location: string): Promise<void>;
  /**
   * Committed locations in ASCII order, for collection and repair. `modifiedAt` is no earlier than the commit: what is old and not recorded is taken for an
   * orphan.
   */
  list(page: PageRequest): Promise<Page<{ readonly location: string; readonly size: number; readonly modifiedAt: number }>>;
  /** Staged bytes, by id, so that those that nobody finishes are found. `modifiedAt` is no earlier than the last append. */
  listStaged(page: PageRequest): Promise<Page<{ readonly id: string; readonly modifiedAt: number }>>;
  /** Idempotent. */
  discardStaged(id: string): Promise<void>;
  /**
   * A URL where a client gets the committed bytes without us, ranges included.
   * @param o.expiresIn seconds.
   */
  presign?(location: string, o: { expiresIn: number }): Promise<string>;
  /**
   * Takes bytes that another program keeps without sending them through this process, by a hard link or a copy inside the object store, and makes them durable under a
   * location never used before. The caller vouches for the digest, and that nobody changes the bytes in place. `undefined` when it cannot: they are then read and written.
   */
  copyFrom?(source: ForeignBytes, digest: Digest): Promise<string | undefined>;
  /** Bytes of the volume, where that is known: a cache then keeps some of it free. */
  space?(): Promise<{ readonly total: number; readonly free: number }>;
  /**
   * What time it is by the clock that gives `modifiedAt`, in milliseconds since the epoch, where that is not this process's own: garbage collection refuses to run when
   * they disagree.
   */
  now?(): Promise<number>;
  /** Idempotent. */
  ready(): Promise<void>;
  /** Idempotent. What comes later is refused by an error, or answered where nothing has to be open. */
  close(): Promise<void>;
}
