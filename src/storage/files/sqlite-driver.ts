import { createRequire } from "node:module";
import { RegistryError } from "../../core/errors.js";

type SqliteParameter = string | number | Uint8Array | null;

/** A prepared statement, as `node:sqlite`, `libsql` and `better-sqlite3` have it. */
export interface SqliteStatement {
  run(...parameters: SqliteParameter[]): unknown;
  /** A row as an object, `undefined` when there is none. */
  get(...parameters: SqliteParameter[]): unknown;
  all(...parameters: SqliteParameter[]): unknown[];
}

/** An open database: what this library needs of one, and no more. */
export interface SqliteDatabase {
  exec(sql: string): unknown;
  prepare(sql: string): SqliteStatement;
  close(): unknown;
}

/** Opens, and creates, the database at a path. */
export type SqliteDriver = (path: string) => SqliteDatabase;

type DatabaseClass = new (path: string) => SqliteDatabase;

/** How drivers are looked for; tests replace it. */
export interface DriverSources {
  readonly nodeVersion: string;
  /** A module built into Node. */
  builtin(name: string): unknown;
  /** An installed package; throws as `require` does. */
  installed(name: string): unknown;
}

const systemSources: DriverSources = {
  nodeVersion: process.versions.node,
  // Not an import: on Node 20 the module does not exist, and neither does this function before 20.16.
  builtin: (name) => process.getBuiltinModule?.(name),
  installed: createRequire(import.meta.url),
};

// libsql first: it comes with built binaries for every platform, better-sqlite3 may have to compile.
const peers = ["libsql", "better-sqlite3"] as const;

/**
 * The first SQLite driver there is: the one built into Node 22.13 and later, else the package `libsql`, else `better-sqlite3`.
 * @throws RegistryError UNAVAILABLE when there is none; its message says what to install.
 */
export function findSqliteDriver(sources: DriverSources = systemSources): SqliteDriver {
  const builtin = hasSqlite(sources.nodeVersion)
    ? (sources.builtin("node:sqlite") as { DatabaseSync?: DatabaseClass } | undefined)
    : undefined;
  const DatabaseSync = builtin?.DatabaseSync;
  if (DatabaseSync) return (path) => new DatabaseSync(path);
  const failures: unknown[] = [];
  for (const name of peers) {
    try {
      const Database = sources.installed(name) as DatabaseClass;
      return (path) => new Database(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "MODULE_NOT_FOUND") failures.push(error);
    }
  }
  const broken = failures.map((error) => (error instanceof Error ? error.message : String(error))).join("; ");
  throw new RegistryError(
    "UNAVAILABLE",
    `fileStorage needs a SQLite driver, and Node ${sources.nodeVersion} has none: run "npm install libsql" (or better-sqlite3), or use Node 22.13 or later${broken && ` (installed, but failed to load: ${broken})`}`,
    { cause: failures[0] },
  );
}

/** `node:sqlite` needs no flag from 22.13 on. */
function hasSqlite(nodeVersion: string): boolean {
  const [major = 0, minor = 0] = nodeVersion.split(".").map(Number);
  return major > 22 || (major === 22 && minor >= 13);
}
