import { LRUCache } from "lru-cache";
import type { RecordKind } from "../../core/records.js";
import type { ReadRecord } from "../sql/rows.js";
import type { SqliteStatement } from "./sqlite-driver.js";

/** Some ten thousand tags and links, or some thousand manifests. */
const cacheBytes = 32 * 1024 * 1024;
/** What an entry costs beside its bytes, roughly. */
const entryBytes = 600;
/** For pages of names of one kind: some forty of a thousand names, since those asked for again and again are first pages. */
const namesBytes = 2 * 1024 * 1024;
/** What processes hand to each other: read as it was a moment ago, it would send away a client who comes from another process. */
const neverKept: ReadonlySet<RecordKind> = new Set(["upload", "lease"]);
/** How long a change made by another process on the folder may go unseen by reads, in milliseconds. Conditions of commits always see it. */
const foreignChangeBound = 20;

/**
 * Records in memory, in front of the database: a point read costs several system calls, for its locks alone. Changes made through this connection are seen
 * at once; for those of other connections SQLite counts a data version, which is asked for at most every 20 ms. That there is no record is not kept: what
 * one process has just acknowledged must not be missing in another.
 */
export class RecordCache {
  readonly #records = new LRUCache<string, ReadRecord>({
    maxSize: cacheBytes,
    sizeCalculation: ({ bytes }) => entryBytes + (bytes?.byteLength ?? 0),
  });
  /** Pages of names, of each kind of record. */
  readonly #names = new Map<RecordKind, LRUCache<string, readonly string[]>>();
  readonly #dataVersion: SqliteStatement;
  #seen: unknown;
  #askedAt = 0;

  constructor(dataVersion: SqliteStatement) {
    this.#dataVersion = dataVersion;
  }

  get(kind: RecordKind, key: string): ReadRecord | undefined {
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

  set(kind: RecordKind, key: string, record: ReadRecord): void {
    if (neverKept.has(kind)) return;
    this.#records.set(`${kind} ${key}`, record);
  }

  /** Called inside the transaction that changes the record, or finds it changed; nothing can read between that and its end. */
  drop(kind: RecordKind, key: string): void {
    this.#records.delete(`${kind} ${key}`);
    this.#names.delete(kind);
  }
}

function sizeOfNames(names: readonly string[]): number {
  return names.reduce((sum, name) => sum + name.length + 40, 100);
}
