import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { errorText, RegistryError } from "../../core/errors.js";

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

type DatabaseClass = new (path: string) => SqliteDatabase;

/** A driver that was found. */
export interface SqliteDriver {
  /** Where other threads find it. Two SQLite libraries in one process would undo each other's locks of a file: every thread loads the same. */
  readonly location: DriverLocation;
  /** Opens, and creates, the database at a path. */
  open(path: string): SqliteDatabase;
}

/** How drivers are looked for; tests replace it. */
interface DriverSources {
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
/** Where modules that are no class themselves have it. */
const members = ["DatabaseSync", "default", "Database"] as const;

/**
 * The first SQLite driver there is: the one built into Node 22.13 and later, else the package `libsql`, else `better-sqlite3`.
 * @throws RegistryError UNAVAILABLE when there is none; its message says what to install.
 */
export function findSqliteDriver(sources: DriverSources = systemSources): SqliteDriver {
  const found = hasSqlite(sources.nodeVersion) ? driverIn("node:sqlite", sources.builtin("node:sqlite")) : undefined;
  if (found) return found;
  const failures: unknown[] = [];
  for (const name of peers) {
    try {
      const driver = driverIn(name, sources.installed(name));
      if (driver) return driver;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "MODULE_NOT_FOUND") failures.push(error);
    }
  }
  const broken = failures.map((error) => errorText(error)).join("; ");
  throw new RegistryError(
    "UNAVAILABLE",
    `fileStorage needs a SQLite driver, and Node ${sources.nodeVersion} has none: run "npm install libsql" (or better-sqlite3), or use Node 22.13 or later${broken && ` (installed, but failed to load: ${broken})`}`,
    { cause: failures[0] },
  );
}

/**
 * The driver that a host names.
 * @param name of a package, a path, or a URL of a file.
 * @throws RegistryError UNAVAILABLE when it cannot be loaded, or has no class.
 */
export function namedSqliteDriver(name: string, sources: DriverSources = systemSources): SqliteDriver {
  const module = name.startsWith("file:") ? fileURLToPath(name) : name;
  try {
    const driver = driverIn(module, sources.installed(module));
    if (driver) return driver;
  } catch (cause) {
    const reason = errorText(cause);
    throw new RegistryError("UNAVAILABLE", `the SQLite driver ${name} cannot be loaded: ${reason}`, { cause });
  }
  throw new RegistryError("UNAVAILABLE", `the SQLite driver ${name} exports no class: it needs one with exec, prepare and close`);
}

function driverIn(module: string, loaded: unknown): SqliteDriver | undefined {
  const location = { module, from: import.meta.url };
  const driver = (Database: unknown, member?: string): SqliteDriver => ({
    location: { ...location, ...(member !== undefined && { member }) },
    open: (path) => new (Database as DatabaseClass)(path),
  });
  if (typeof loaded === "function") return driver(loaded);
  const exported = (loaded ?? {}) as Readonly<Record<string, unknown>>;
  const member = members.find((name) => typeof exported[name] === "function");
  return member && driver(exported[member], member);
}

/** `node:sqlite` needs no flag from 22.13 on. */
function hasSqlite(nodeVersion: string): boolean {
  const [major = 0, minor = 0] = nodeVersion.split(".").map(Number);
  return major > 22 || (major === 22 && minor >= 13);
}

/** Where a driver's class is. Each thread loads it for itself: nothing that was loaded can be sent to another thread. */
export interface DriverLocation {
  /** As `require` takes it. */
  readonly module: string;
  /** The URL of the file that it is required from. */
  readonly from: string;
  /** Which export the class is; absent where the module is the class. */
  readonly member?: string;
}
