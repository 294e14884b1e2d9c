import { LRUCache } from "lru-cache";
import type { RecordKind } from "../../core/records.js";
import type { ReadRecord } from "../sql/rows.js";
import type { SqliteStatement } from "./sqlite-driver.js";

/** A record as the database gave it; `undefined` inside says that there is none. */
export interface CachedRecord {
  readonly record: ReadRecord | undefined;
}

/** Some ten thousand tags and links, or some thousand manifests. */
const cacheBytes = 32 * 1024 * 1024;
/** What an entry costs beside its bytes, roughly. */
const entryBytes = 600;
/** For pages of names of one kind: some forty of a thousand names, since those asked for again and again are first pages. */
const namesBytes = 2 * 1024 * 1024;
/** How long a change made by another process on the folder may go unseen by reads, in milliseconds. Conditions of commits always see it. */
const foreignChangeBound = 20;

/**
 * Records in memory, in front of the database: a point read costs several system calls, for its locks alone. Changes made through this connection are seen
 * at once; for those of other connections SQLite counts a data version, which is asked for at most every 20 ms.
 */
export class RecordCache {
  readonly #records = new LRUCache<string, CachedRecord>({
    maxSize: cacheBytes,
    sizeCalculation: ({ record }) => entryBytes + (record?.bytes?.byteLength ?? 0),
  });
  /** Pages of names, of each kind of record. */
  readonly #names = new Map<RecordKind, LRUCache<string, readonly string[]>>();
  readonly #dataVersion: SqliteStatement;
  #seen: unknown;
  #askedAt = 0;

  constructor(dataVersion: SqliteStatement) {
    this.#dataVersion = dataVersion;
  }

  get(kind: RecordKind, key: string): CachedRecord | undefined {
    this.#heedOthers();
    return this.#records.get(`${kind} ${key}`);
  }

  /** A page of names, read by `read` unless nothing of that kind has changed since. `page` tells it from others. */
  names(kind: RecordKind, page: string, read: () => readonly string[]): readonly string[] {
    this.#heedOthers();
    const pages = this.#names.get(kind) ?? new LRUCache<string, readonly string[]>({ maxSize: namesBytes, sizeCalculation: sizeOfNames });
    this.#names.set(kind, pages);
    const known = pages.get(page);
    if (known) return known;
    const names = Object.freeze(read());
    pages.set(page, names);
    return names;
  }

  #heedOthers(): void {
    const now = performance.now();
    if (now - this.#askedAt <= foreignChangeBound) return;
    this.#askedAt = now;
    const { data_version } = this.#dataVersion.get() as { data_version: number };
    if (data_version !== this.#seen) {
      this.#records.clear();
      this.#names.clear();
    }
    this.#seen = data_version;
  }

  set(kind: RecordKind, key: string, cached: CachedRecord): void {
    this.#records.set(`${kind} ${key}`, cached);
  }

  /** Called inside the transaction that changes the record; nothing can read between that and its end. */
  drop(kind: RecordKind, key: string): void {
    this.#records.delete(`${kind} ${key}`);
    this.#names.delete(kind);
  }
}

function sizeOfNames(names: readonly string[]): number {
  return names.reduce((sum, name) => sum + name.length + 40, 100);
}
