import { LRUCache } from "lru-cache";
import type { RecordKind } from "../../core/records.js";
import type { ChangedRow, ReadRecord } from "../sql/rows.js";
import type { VersionSpan } from "./commit-messages.js";
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
 * Records in memory, in front of the database: a point read costs several system calls, for its locks alone. What commits of this process are about to change
 * is not kept, so reads of it see what the database has. For commits of other processes the sequence of versions is looked at, at most every 20 ms: what was
 * given and not by this process was given to others. That there is no record is not kept: what one process has just acknowledged must not be missing in another.
 */
export class RecordCache {
  readonly #records = new LRUCache<string, ReadRecord>({
    maxSize: cacheBytes,
    sizeCalculation: ({ bytes }) => entryBytes + (bytes?.byteLength ?? 0),
  });
  /** Pages of names, of each kind of record. */
  readonly #names = new Map<RecordKind, LRUCache<string, readonly string[]>>();
  /** How many commits that are under way change a record, or any of a kind. */
  readonly #changing = new Map<string, number>();
  readonly #last: SqliteStatement;
  /** The last version of which it is known whether others gave it. */
  #seen: number | undefined;
  #askedAt = Number.NEGATIVE_INFINITY;
  /** Versions were given, and only the answer to a commit that is under way can tell by whom. */
  #unsure = false;

  /** @param last answers the last version that was given. */
  constructor(last: SqliteStatement) {
    this.#last = last;
  }

  get(kind: RecordKind, key: string): ReadRecord | undefined {
    this.#heedOthers();
    return this.#unsure ? undefined : this.#records.get(`${kind} ${key}`);
  }

  set(kind: RecordKind, key: string, record: ReadRecord): void {
    const id = `${kind} ${key}`;
    if (neverKept.has(kind) || (this.#changing.size > 0 && this.#changing.has(id))) return;
    this.#records.set(id, record);
  }

  /** Whether a page of names would be answered from here, unless others have changed something. */
  hasNames(kind: RecordKind, page: string): boolean {
    return this.#names.get(kind)?.has(page) ?? false;
  }

  /** A page of names, read by `read` unless nothing of that kind has changed since. `page` tells it from others. */
  names(kind: RecordKind, page: string, read: () => readonly string[]): readonly string[] {
    this.#heedOthers();
    if (this.#changing.has(kind)) return read();
    const pages = this.#names.get(kind) ?? new LRUCache<string, readonly string[]>({ maxSize: namesBytes, sizeCalculation: sizeOfNames });
    this.#names.set(kind, pages);
    const known = this.#unsure ? undefined : pages.get(page);
    if (known) return known;
    const names = Object.freeze(read());
    pages.set(page, names);
    return names;
  }

  /** A commit is about to change these. To be followed by {@link changed}. */
  changing(rows: readonly ChangedRow[]): void {
    this.drop(rows);
    for (const { kind, key } of rows) {
      this.#count(kind, 1);
      this.#count(`${kind} ${key}`, 1);
    }
  }

  /** The commit was answered, in whichever way. */
  changed(rows: readonly ChangedRow[]): void {
    for (const { kind, key } of rows) {
      this.#count(kind, -1);
      this.#count(`${kind} ${key}`, -1);
    }
  }

  /** What commits of this process took of the sequence. What was given in between was given to others. */
  answered(spans: readonly VersionSpan[]): void {
    for (const [before, after] of spans) {
      if (before !== this.#seen) this.clear();
      this.#seen = after;
    }
    if (!this.#unsure) return;
    this.#unsure = false;
    this.#askedAt = Number.NEGATIVE_INFINITY;
  }

  drop(records: readonly { readonly kind: RecordKind; readonly key: string }[]): void {
    for (const { kind, key } of records) {
      this.#records.delete(`${kind} ${key}`);
      this.#names.delete(kind);
    }
  }

  clear(): void {
    this.#records.clear();
    this.#names.clear();
  }

  #heedOthers(): void {
    const now = performance.now();
    if (now - this.#askedAt <= foreignChangeBound) return;
    this.#askedAt = now;
    const { last } = this.#last.get() as { last: number };
    if (last === this.#seen) return;
    if (this.#changing.size > 0) {
      this.#unsure = true;
    } else {
      this.clear();
      this.#seen = last;
    }
  }

  #count(id: string, by: 1 | -1): void {
    const count = (this.#changing.get(id) ?? 0) + by;
    if (count > 0) this.#changing.set(id, count);
    else this.#changing.delete(id);
  }
}

function sizeOfNames(names: readonly string[]): number {
  return names.reduce((sum, name) => sum + name.length + 40, 100);
}
