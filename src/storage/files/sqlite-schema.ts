import { closeSync, fsyncSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { sqliteDialect } from "../sql/dialect.js";
import { currentFormat, type Format, formats, stepsFrom, stepText, usableVersion } from "../sql/formats.js";
import { tablesText } from "../sql/tables.js";
import { unopened } from "./database-errors.js";
import { giveIdentity, lacksIdentity } from "./folder-identity.js";
import type { SqliteDatabase, SqliteDriver } from "./sqlite-driver.js";

/** How long SQLite itself waits, blocking the thread, for a lock of another process; beyond it the wait is asynchronous. Milliseconds. */
const busyTimeout = 200;
/** What every connection is set up with. */
export const connectionSettings = `PRAGMA busy_timeout = ${busyTimeout}; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;`;
/** While opening, when another process may be creating the tables. */
const openTimeout = 10_000;

/**
 * Opens the database, creating folder, file and tables as needed. The connection is for reading: commits have a thread of their own.
 * @param o.acceptEmpty see `giveIdentity`.
 * @throws RegistryError UNAVAILABLE when the path cannot be used, is no database, was written by a newer version of this library that this one cannot
 *   work beside, or belongs to another folder.
 */
export function openDatabase(
  path: string,
  driver: SqliteDriver,
  known: readonly Format[] = formats,
  o: { acceptEmpty: boolean } = { acceptEmpty: false },
): SqliteDatabase {
  let database: SqliteDatabase | undefined;
  try {
    mkdirSync(dirname(path), { recursive: true });
    database = driver.open(path);
    database.exec(`PRAGMA busy_timeout = ${openTimeout}`);
    // The format is looked at before anything is written.
    let version = storedVersion(database, known);
    database.exec("PRAGMA journal_mode = WAL");
    database.exec("PRAGMA synchronous = FULL");
    if (version === undefined) {
      inTransaction(database, () => database?.exec(tablesText(sqliteDialect, known)));
      version = storedVersion(database, known);
    }
    if (version !== undefined && version < currentFormat(known).version) migrate(database, known);
    const opened = database;
    if (lacksIdentity(path, opened)) inTransaction(opened, () => giveIdentity(path, opened, o));
    syncEntries(dirname(path));
    database.exec(connectionSettings);
    database.exec("PRAGMA query_only = ON");
    return database;
  } catch (error) {
    database?.close();
    throw unopened(path, error);
  }
}

function storedVersion(database: SqliteDatabase, known: readonly Format[]): number | undefined {
  if (!database.prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'format'").get()) return undefined;
  return usableVersion(database.prepare("SELECT * FROM format").get(), known);
}

/** Another process may have begun it too: the version is read again inside each transaction. */
function migrate(database: SqliteDatabase, known: readonly Format[]): void {
  for (let done = false; !done; ) {
    inTransaction(database, () => {
      const [step] = stepsFrom(storedVersion(database, known) ?? 0, known);
      if (!step) {
        done = true;
        return;
      }
      database.exec(stepText(step, sqliteDialect));
      // Other processes take what they remember for current until the sequence has moved.
      database.exec("UPDATE sequence SET last = last + 1 WHERE id = 1");
    });
  }
}

function inTransaction(database: SqliteDatabase, run: () => void): void {
  database.exec("BEGIN IMMEDIATE");
  try {
    run();
    database.exec("COMMIT");
  } catch (error) {
    database.exec("ROLLBACK");
    throw error;
  }
}

/** SQLite syncs its files; that they exist is only durable with their folder. */
function syncEntries(dir: string): void {
  if (process.platform === "win32") return;
  const folder = openSync(dir, "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
