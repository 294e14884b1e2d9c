import { closeSync, fsyncSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { RegistryError } from "../../core/errors.js";
import { unusable } from "./disk-errors.js";
import type { SqliteDatabase, SqliteDriver } from "./sqlite-driver.js";

const formatName = "oci-manifold.metadata";
const formatVersion = 2;
/** How long SQLite itself waits, blocking the thread, for a lock of another process; beyond it the wait is asynchronous. */
const busyTimeout = 200;
/** While opening, when another process may be creating the tables. */
const openTimeout = 10_000;

// Records are clustered by key, so that a page is one scan. Bytes of up to 4 MiB would make that scan long: they have a table of their own, by the
// record's version, which no other record ever has. `sequence` is the last version given; it only grows, so a version never comes back.
const tables = `
  CREATE TABLE IF NOT EXISTS format (name TEXT PRIMARY KEY, version INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS sequence (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (kind, key)
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS contents (version INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
  INSERT OR IGNORE INTO sequence (id, last) VALUES (1, 0);
  INSERT OR IGNORE INTO format (name, version) VALUES ('${formatName}', ${formatVersion});
`;

/** What brings a database of the version before to each version, within one transaction. */
const migrations: Readonly<Record<number, string>> = {
  // The keys of links by digest began with the registry: eviction has to find those of all registries.
  2: `
    UPDATE records SET key = substr(rest, 1, at - 1) || char(1) || registry || char(1) || substr(rest, at + 1)
    FROM (
      SELECT key AS old, registry, rest, instr(rest, char(1)) AS at
      FROM (SELECT key, substr(key, 1, instr(key, char(1)) - 1) AS registry, substr(key, instr(key, char(1)) + 1) AS rest FROM records WHERE kind = 'linkByDigest')
    )
    WHERE kind = 'linkByDigest' AND key = old;
  `,
};

/**
 * Opens the database, creating folder, file and tables as needed.
 * @throws RegistryError UNAVAILABLE when the path cannot be used, is no database, or was written by a newer version of this library.
 */
export function openDatabase(path: string, driver: SqliteDriver): SqliteDatabase {
  let database: SqliteDatabase | undefined;
  try {
    mkdirSync(dirname(path), { recursive: true });
    database = driver(path);
    database.exec(`PRAGMA busy_timeout = ${openTimeout}`);
    // The format is looked at before anything is written.
    let format = storedFormat(database);
    database.exec("PRAGMA journal_mode = WAL");
    database.exec("PRAGMA synchronous = FULL");
    database.exec("PRAGMA cache_size = -16384");
    if (format === undefined) {
      inTransaction(database, () => database?.exec(tables));
      format = storedFormat(database);
    }
    if (format !== formatVersion) migrate(database);
    syncEntries(dirname(path));
    database.exec(`PRAGMA busy_timeout = ${busyTimeout}`);
    return database;
  } catch (error) {
    database?.close();
    throw unusable(path, error);
  }
}

function storedFormat(database: SqliteDatabase): number | undefined {
  if (!database.prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'format'").get()) return undefined;
  const row = database.prepare("SELECT name, version FROM format").get() as { name: string; version: number } | undefined;
  if (row?.name === formatName && row.version >= 1 && row.version <= formatVersion) return row.version;
  const newer = row?.name === formatName && row.version > formatVersion;
  throw new RegistryError(
    "UNAVAILABLE",
    newer
      ? `the metadata was written by a newer version of oci-manifold (format ${row.version}, this version knows ${formatVersion}): update oci-manifold`
      : `the database is not one of oci-manifold's (its format is ${row ? `${row.name} ${row.version}` : "unknown"})`,
  );
}

/** Another process may have begun it too: the version is read again inside each transaction. */
function migrate(database: SqliteDatabase): void {
  let version = 0;
  while (version < formatVersion) {
    inTransaction(database, () => {
      version = storedFormat(database) ?? 0;
      const migration = migrations[version + 1];
      if (migration === undefined) return;
      database.exec(migration);
      version++;
      database.exec(`UPDATE format SET version = ${version}`);
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
