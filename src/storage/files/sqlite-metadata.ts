import { dirname, join, resolve } from "node:path";
import { isStorageFull, RegistryError } from "../../core/errors.js";
import type { Condition, MetadataStore, RecordItem, RecordRange, StoredRecord } from "../../core/metadata-store.js";
import type { RecordKey, RecordKind } from "../../core/records.js";
import { keyBounds, keyText } from "../key-order.js";
import { currentFormat, type Format, formats, tooNew } from "../sql/formats.js";
import { type ChangedRow, itemOf, namesOf, type PageRow, type ReadRecord, recordOf, rowOf, type StoredRow } from "../sql/rows.js";
import { databaseError } from "./database-errors.js";
import { GroupCommit } from "./group-commit.js";
import { RecordCache } from "./record-cache.js";
import { giveBackReserve } from "./reserve.js";
import { findSqliteDriver, type SqliteDatabase, type SqliteDriver } from "./sqlite-driver.js";
import { openDatabase } from "./sqlite-schema.js";
import { type Statements, statementsOf } from "./sqlite-statements.js";

interface Open {
  readonly database: SqliteDatabase;
  readonly cache: RecordCache;
  readonly statements: Statements;
  readonly commits: GroupCommit;
}

/**
 * Metadata in one SQLite database, opened at the first use. A commit that was answered survives a power loss; commits that wait in the same turn share
 * one transaction. Several processes on one machine may share the database: what one commits the others read within 20 ms, and their commits see at once.
 *
 * @param dir the folder of `metadata.sqlite`, created when it is missing.
 * @param o.driver opens the database. By default the first there is of `node:sqlite` (Node 22.13 and later), `libsql` and `better-sqlite3`.
 * @throws RegistryError from its methods: UNAVAILABLE when there is no driver, the database cannot be opened, was written by a newer version or
 *   is closed; INSUFFICIENT_STORAGE when the disk is full.
 *
 * @example
 * ```ts
 * import { sqliteMetadata } from "oci-manifold/storage/files";
 * const metadata = sqliteMetadata("./data");
 * console.log(typeof metadata.commit);
 * ```
 */
export function sqliteMetadata(dir: string, o: { driver?: SqliteDriver } = {}): MetadataStore {
  return sqliteMetadataOf(formats, dir, o);
}

/** As a version of the library that knows these formats would have it: tests play older and newer ones. */
export function sqliteMetadataOf(known: readonly Format[], dir: string, o: { driver?: SqliteDriver } = {}): MetadataStore {
  const path = join(resolve(dir), "metadata.sqlite");
  let opened: Open | undefined;
  let closing: Promise<void> | undefined;

  const open = (): Open => {
    if (closing) throw new RegistryError("UNAVAILABLE", `the metadata at ${path} is closed`);
    if (!opened) {
      const database = openWithRoom(path, o.driver ?? findSqliteDriver(), known);
      const statements = statementsOf(database);
      opened = { database, statements, cache: new RecordCache(statements.dataVersion), commits: new GroupCommit(path, database) };
    }
    return opened;
  };

  const explained = <T>(read: () => T): T => {
    try {
      return read();
    } catch (error) {
      throw databaseError(path, error);
    }
  };

  return {
    async get<K extends RecordKind>(key: RecordKey<K>): Promise<StoredRecord<K> | undefined> {
      const { statements, cache } = open();
      const text = keyText(key);
      return explained(() => cache.get(key.kind, text) ?? read(statements, cache, key.kind, text)) as StoredRecord<K> | undefined;
    },

    async page<K extends RecordKind>(range: RecordRange<K>): Promise<readonly RecordItem<K>[]> {
      const { from, to } = keyBounds(range);
      const { statements } = open();
      const rows = explained(() => statements.page.all(range.kind, from, to, Math.max(0, range.limit))) as PageRow[];
      return rows.map((row) => itemOf(range, row));
    },

    async names(range) {
      const { statements, cache } = open();
      const { from, to, nameAt } = keyBounds(range);
      const limit = Math.max(0, range.limit);
      const read = () => {
        // SQL counts characters from 1.
        return namesOf(statements.names.get(nameAt + 1, range.kind, from, to, limit));
      };
      return explained(() => cache.names(range.kind, `${limit} ${from} ${to}`, read));
    },

    async commit(conditions, changes) {
      const { statements, cache, commits } = open();
      // Made to rows first: what is wrong with a value or key must not come up inside a transaction that others share.
      const checks = conditions.map((condition) => ({ condition, kind: condition.key.kind, key: keyText(condition.key) }));
      const rows = changes.map(rowOf);
      return commits.add(() => {
        checkFormat(statements, known);
        if (!checks.every(({ condition, kind, key }) => holds(condition, statements.version.get(kind, key)))) {
          // Whoever decided by what is in memory reads again: another process may have changed it since.
          for (const { kind, key } of checks) cache.drop(kind, key);
          return false;
        }
        if (rows.length > 0) write(statements, cache, rows);
        return true;
      });
    },

    async ready() {
      open();
    },

    close() {
      closing ??= (async () => {
        await opened?.commits.drain();
        opened?.database.close();
        opened = undefined;
      })();
      return closing;
    },
  };
}

/** Even to be read the database needs some KiB for the index of its log: on a full disk the blob store's reserve has them. */
function openWithRoom(path: string, driver: SqliteDriver, known: readonly Format[]): SqliteDatabase {
  try {
    return openDatabase(path, driver, known);
  } catch (error) {
    if (!isStorageFull(error) || !giveBackReserve(dirname(path))) throw error;
    return openDatabase(path, driver, known);
  }
}

function read(statements: Statements, cache: RecordCache, kind: RecordKind, key: string): ReadRecord | undefined {
  const row = statements.get.get(kind, key) as StoredRow | undefined;
  if (!row) return undefined;
  const record = recordOf(row);
  cache.set(kind, key, record);
  return record;
}

/** A process with a newer version of the library may have brought the database to a format that this one would damage. */
function checkFormat(statements: Statements, known: readonly Format[]): void {
  const { oldest } = statements.oldest.get() as { oldest: number };
  const { version } = currentFormat(known);
  if (oldest > version) throw tooNew(oldest, version);
}

function write(statements: Statements, cache: RecordCache, rows: readonly ChangedRow[]): void {
  // One version for each change, not for the commit: bytes belong to a version, and only one record may have it.
  const [reserved] = statements.reserveVersions.all(rows.length) as [{ last: number }];
  let version = reserved.last - rows.length;
  for (const { kind, key, value, bytes } of rows) {
    version += 1;
    cache.drop(kind, key);
    statements.dropBytes.run(kind, key);
    if (value === undefined) {
      statements.remove.run(kind, key);
    } else {
      statements.put.run(kind, key, value, version);
      if (bytes) statements.putBytes.run(version, bytes);
    }
  }
}

function holds(condition: Condition, row: unknown): boolean {
  const version = (row as { version: number } | undefined)?.version;
  if (condition.is === "absent") return version === undefined;
  return version !== undefined && (condition.is === "present" || version === condition.version);
}
