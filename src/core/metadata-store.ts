import type { BlobStore } from "./blob-store.js";
import type { RecordKey, RecordKind, RecordTypes } from "./records.js";

/** A record as read: shared with other readers, so never to be changed. `version` changes with every write, and never comes back after a removal. */
export interface StoredRecord<K extends RecordKind> {
  readonly value: RecordTypes[K];
  readonly bytes?: Uint8Array;
  readonly version: number;
}

/** What must still be so when a change is committed. */
export type Condition =
  /** The record does not exist. */
  | { readonly key: RecordKey; readonly is: "absent" }
  /** The record exists, in whichever version. */
  | { readonly key: RecordKey; readonly is: "present" }
  /** The record exists in exactly this version. */
  | { readonly key: RecordKey; readonly is: "version"; readonly version: number };

export type Change =
  | { [K in RecordKind]: { readonly put: RecordKey<K>; readonly value: RecordTypes[K]; readonly bytes?: Uint8Array } }[RecordKind]
  | { readonly remove: RecordKey };

/** Part of one kind's records in key order: those whose leading parts are `under`, and whose next part is greater than `after`. */
export interface RecordRange<K extends RecordKind = RecordKind> {
  readonly kind: K;
  /** Whole leading parts; the listing runs over the part that follows. */
  readonly under: readonly string[];
  /** Exclusive. */
  readonly after?: string;
  readonly limit: number;
}

export interface RecordItem<K extends RecordKind> extends StoredRecord<K> {
  readonly key: RecordKey<K>;
}

/**
 * Where the library remembers: records by key, ordered pages by key, and changes that happen together or not at all. Fits SQL (one transaction a
 * change) and anything else with a compare-and-set. A loop over reads lets timers and sockets run: a store that answers from memory or in a blocking call spreads
 * its work over turns of the event loop.
 */
export interface MetadataStore {
  get<K extends RecordKind>(key: RecordKey<K>): Promise<StoredRecord<K> | undefined>;
  /**
   * In ASCII order of the part after `under`, then of the rest. Records' bytes are left out. A long page may be read in parts: what is committed in between may be
   * in the later ones only.
   */
  page<K extends RecordKind>(range: RecordRange<K>): Promise<readonly RecordItem<K>[]>;
  /**
   * Only the names of a range: the part after `under` of each key, in order. Listings are most of all pages, and a database gives names several times as
   * fast as records. For kinds whose keys end with that part.
   */
  names(range: RecordRange): Promise<readonly string[]>;
  /**
   * All changes, durably, if all conditions hold; else nothing, and `false`. Once `true` is answered they survive a crash. Conditions speak of what was before; changes
   * are made in their order, so of two to one key the later counts. No reader sees a part of them. Commits that are under way at the same time happen one after
   * the other, in any order.
   * @throws RegistryError INSUFFICIENT_STORAGE when the disk is full. UNAVAILABLE when the store cannot be reached; where the connection broke in the middle, the
   *   changes may have been made.
   */
  commit(conditions: readonly Condition[], changes: readonly Change[]): Promise<boolean>;
  /** What time it is by the store's own clock, in milliseconds since the epoch, where it has one that all processes share: garbage collection goes by it. */
  now?(): Promise<number>;
  /** Idempotent. */
  ready(): Promise<void>;
  /** Waits for the commits that run. Idempotent. What comes later is refused by an error, or answered where nothing has to be open. */
  close(): Promise<void>;
}

/** Both halves of storage. A blob store belongs to exactly one metadata store. */
export interface Storage {
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
}
