import { isRegistryError, RegistryError } from "../../core/errors.js";
import { storageError } from "../storage-error.js";
import { type DiskFault, diskFault, unusable } from "./disk-errors.js";

type SqliteFault = "busy" | "damaged" | Exclude<DiskFault, "quota">;

/** Result codes of SQLite, as numbers and as drivers spell them. An extended code comes before the primary one, which is its lowest byte. */
const faults: readonly (readonly [number, string, SqliteFault])[] = [
  // No room for the shared index of the log.
  [4874, "SQLITE_IOERR_SHMSIZE", "full"],
  [3, "SQLITE_PERM", "forbidden"],
  [5, "SQLITE_BUSY", "busy"],
  [8, "SQLITE_READONLY", "readOnly"],
  [10, "SQLITE_IOERR", "failing"],
  [11, "SQLITE_CORRUPT", "damaged"],
  [13, "SQLITE_FULL", "full"],
  // The folder and file were there when the connection was made: what is missing is a descriptor.
  [14, "SQLITE_CANTOPEN", "crowded"],
  [15, "SQLITE_PROTOCOL", "busy"],
  [26, "SQLITE_NOTADB", "damaged"],
];

/** What a driver's error means here, whichever driver. */
function sqliteFault(error: unknown): SqliteFault | undefined {
  const { code, errcode } = (error ?? {}) as { code?: unknown; errcode?: unknown };
  const isCode = (number: number) => typeof errcode === "number" && (errcode === number || (errcode & 0xff) === number);
  return faults.find(([number, name]) => isCode(number) || (typeof code === "string" && code.startsWith(name)))?.[2];
}

/** The error to throw for one of an open database. */
export function databaseError(path: string, error: unknown): unknown {
  if (isRegistryError(error)) return error;
  const fault = sqliteFault(error);
  switch (fault) {
    case undefined:
      return error;
    case "busy":
      return new RegistryError("UNAVAILABLE", `another process holds ${path}`, { cause: error, detail: { storage: path }, retryAfter: 1 });
    case "damaged":
      return storageError("UNAVAILABLE", path, `the database ${path} is damaged: restore the folder from a copy`, { cause: error });
    default:
      return diskFault(fault, path, error);
  }
}

/** The error of a database that cannot be opened. */
export function unopened(path: string, error: unknown): RegistryError {
  // Of a database that is not open yet CANTOPEN can mean anything: the driver's message is what there is.
  const known = sqliteFault(error) === "crowded" ? error : databaseError(path, error);
  return unusable(path, known);
}
