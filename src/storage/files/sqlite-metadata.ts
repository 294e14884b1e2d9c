import { dirname, join, resolve } from "node:path";
import { isStorageFull, RegistryError } from "../../core/errors.js";
import type { Condition, MetadataStore, RecordItem, RecordRange, StoredRecord } from "../../core/metadata-store.js";
import type { RecordKey, RecordKind } from "../../core/records.js";
import { chargeTurn, inTurn, spendTurn } from "../../core/turn-budget.js";
import { keyBounds, keyText } from "../key-order.js";
import { inSlices, readUnits, unitsToCopy, unitsToParse } from "../read-cost.js";
import { currentFormat, type Format, formats } from "../sql/formats.js";
import { type ChangedRow, itemOf, namesOf, type PageRow, type ReadRecord, recordOf, rowOf, type StoredRow } from "../sql/rows.js";
import type { CommitCondition, VersionSpan } from "./commit-messages.js";
import { databaseError } from "./database-errors.js";
import { placeOf } from "./folder-identity.js";
import { GroupCommit } from "./group-commit.js";
import { RecordCache } from "./record-cache.js";
import { giveBackReserve } from "./reserve.js";
import { findSqliteDriver, namedSqliteDriver, type SqliteDatabase, type SqliteDriver } from "./sqlite-driver.js";
import { connectionSettings, openDatabase } from "./sqlite-schema.js";
import { type Statements, sqliteCommitTexts, statementsOf } from "./sqlite-statements.js";

interface Open {
  readonly database: SqliteDatabase;
  readonly cache: RecordCache;
  readonly statements: Statements;
  readonly commits: GroupCommit;
}

export interface SqliteMetadataOptions {
  /**
   * Names the driver: a package, a path or a file URL. Default: the first there is of `node:sqlite` (Node 22.13 and later), `libsql` and `better-sqlite3`.
   */
  readonly driver?: string;
  /**
   * Takes a database without records beside blobs, as after the loss of `metadata.sqlite`: the registry is then empty, the blobs stay, and garbage collection deletes none of
   * them for 30 days. Default: false, such a database is refused.
   */
  readonly acceptEmptyDatabase?: boolean;
}

/** For how long another process may hold the database before a commit gives up, in milliseconds. */
const patience = 30_000;

/**
 * Metadata in one SQLite database, opened at the first use. A commit that was answered survives a power loss. Commits are made in a thread of their own, which the first one
 * starts; those that wait at the same time share one transaction. Reads are made at once, and spread over turns of the event loop. Several processes on one machine
 * may share the database: what one commits the others read within 20 ms, and their commits see at once.
 *
 * @param dir the folder of `metadata.sqlite`, created when it is missing.
 * @throws RegistryError from its methods: UNAVAILABLE when there is no driver, the database cannot be opened, was written by a newer version,
 *   belongs to another folder, was deleted while it was in use, or is closed; INSUFFICIENT_STORAGE when the disk is full.
 *
 * @example
 * ```ts
 * import { sqliteMetadata } from "oci-manifold/storage/files";
 * const metadata = sqliteMetadata("./data");
 * console.log(typeof metadata.commit);
 * ```
 */
export function sqliteMetadata(dir: string, o: SqliteMetadataOptions = {}): MetadataStore {
  return sqliteMetadataOf(formats, dir, o);
}

/** As a version of the library that knows these formats would have it: tests play older and newer ones. */
export function sqliteMetadataOf(known: readonly Format[], dir: string, o: SqliteMetadataOptions = {}): MetadataStore {
  const path = join(resolve(dir), "metadata.sqlite");
  let opened: Open | undefined;
  let closing: Promise<void> | undefined;

  const open = (): Open => {
    if (closing) throw new RegistryError("UNAVAILABLE", `the metadata at ${path} is closed`);
    if (!opened) {
      const driver = o.driver === undefined ? findSqliteDriver() : namedSqliteDriver(o.driver);
      const database = openWithRoom(path, driver, known, o.acceptEmptyDatabase === true);
      const statements = statementsOf(database);
      const cache = new RecordCache(statements.last);
      const start = {
        place: placeOf(path),
        driver: driver.location,
        settings: connectionSettings,
        texts: sqliteCommitTexts,
        format: currentFormat(known).version,
        patience,
      };
      const observer = { answered: (spans: readonly VersionSpan[]) => cache.answered(spans), lost: () => cache.clear() };
      opened = { database, statements, cache, commits: new GroupCommit(start, observer) };
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

  const remembered = (kind: RecordKind, key: string): ReadRecord | undefined => {
    const { cache } = open();
    return explained(() => cache.get(kind, key));
  };

  const read = (kind: RecordKind, key: string): ReadRecord | undefined => {
    const { statements, cache } = open();
    const row = explained(() => statements.get.get(kind, key)) as StoredRow | undefined;
    if (!row) return undefined;
    chargeTurn(unitsToParse(row.value.length) + unitsToCopy(row.bytes?.byteLength ?? 0));
    const record = recordOf(row);
    cache.set(kind, key, record);
    return record;
  };

  return {
    async get<K extends RecordKind>(key: RecordKey<K>): Promise<StoredRecord<K> | undefined> {
      const text = keyText(key);
      const known = remembered(key.kind, text);
      const look = () => (remembered(key.kind, text) ?? read(key.kind, text)) as StoredRecord<K> | undefined;
      if (!known) return inTurn(readUnits.record, look);
      const turn = spendTurn(readUnits.known);
      if (!turn) return known as StoredRecord<K>;
      await turn;
      // It may have changed since.
      return look();
    },

    async page<K extends RecordKind>(range: RecordRange<K>): Promise<readonly RecordItem<K>[]> {
      const { from, to } = keyBounds(range);
      const read = (start: string, limit: number) => {
        const { statements } = open();
        const rows = explained(() => statements.page.all(range.kind, start, to, limit)) as PageRow[];
        chargeTurn(unitsToParse(rows.reduce((sum, { value }) => sum + value.length, 0)));
        return { items: rows.map((row) => itemOf(range, row)), last: rows.at(-1)?.key };
      };
      return inSlices(range, from, readUnits.row, async (start, limit, units) => inTurn(units, () => read(start, limit)));
    },

    async names(range) {
      const { from, to, nameAt } = keyBounds(range);
      return inSlices(range, from, readUnits.name, async (start, limit, units) => {
        const page = `${limit} ${start} ${to}`;
        const turn = spendTurn(open().cache.hasNames(range.kind, page) ? readUnits.known : units);
        if (turn) await turn;
        const { statements, cache } = open();
        // SQL counts characters from 1.
        const readNames = () => namesOf(statements.names.get(nameAt + 1, range.kind, start, to, limit));
        const items = explained(() => cache.names(range.kind, page, readNames));
        const last = items.at(-1);
        return { items, last: last === undefined ? undefined : from.slice(0, nameAt) + last };
      });
    },

    async commit(conditions, changes) {
      open();
      const checks: CommitCondition[] = [];
      for (const condition of conditions) {
        const turn = spendTurn(readUnits.known);
        if (turn) await turn;
        checks.push(checkOf(condition));
      }
      const rows: ChangedRow[] = [];
      for (const change of changes) {
        const turn = spendTurn(readUnits.row);
        if (turn) await turn;
        const row = rowOf(change);
        if (row.bytes) chargeTurn(unitsToCopy(row.bytes.byteLength));
        rows.push(row);
      }
      const { cache, commits } = open();
      const marked = inPieces(rows, (piece) => cache.changing(piece));
      if (marked) await marked;
      try {
        // It may have been closed meanwhile.
        open();
        const committed = await commits.add({ conditions: checks, rows });
        // Callers that decided by what is in memory read again: another process may have changed it since.
        if (!committed) await inPieces(checks, (piece) => cache.drop(piece));
        return committed;
      } finally {
        await inPieces(rows, (piece) => cache.changed(piece));
      }
    },

    async ready() {
      open();
    },

    close() {
      closing ??= (async () => {
        if (!opened) return;
        const { database, commits } = opened;
        await commits.drain();
        // The last connection that is closed writes the log back into the database: that is work for the other thread.
        database.close();
        await commits.stop();
        opened = undefined;
      })();
      return closing;
    },
  };
}

/** Even to be read the database needs some KiB for the index of its log: on a full disk the blob store's reserve has them. */
function openWithRoom(path: string, driver: SqliteDriver, known: readonly Format[], acceptEmpty: boolean): SqliteDatabase {
  try {
    return openDatabase(path, driver, known, { acceptEmpty });
  } catch (error) {
    if (!isStorageFull(error) || !giveBackReserve(dirname(path))) throw error;
    return openDatabase(path, driver, known, { acceptEmpty });
  }
}

/** Of a commit that has more conditions or rows, so many are gone through in one turn. */
const piece = { size: 500, units: 100 };

/** What fits into one piece is done at once, so that a commit that was begun before the store is closed is made. */
function inPieces<T>(items: readonly T[], work: (piece: readonly T[]) => void): Promise<void> | undefined {
  if (items.length > piece.size) return inManyPieces(items, work);
  work(items);
  return undefined;
}

async function inManyPieces<T>(items: readonly T[], work: (piece: readonly T[]) => void): Promise<void> {
  for (let from = 0; from < items.length; from += piece.size) {
    const turn = spendTurn(piece.units);
    if (turn) await turn;
    work(items.slice(from, from + piece.size));
  }
}

function checkOf(condition: Condition): CommitCondition {
  const { kind } = condition.key;
  return { kind, key: keyText(condition.key), is: condition.is, ...(condition.is === "version" && { version: condition.version }) };
}
