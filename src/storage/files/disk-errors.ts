import { type ErrorCode, errorText, isRegistryError, type RegistryError } from "../../core/errors.js";
import { systemCode } from "../../core/system-code.js";
import { storageError } from "../storage-error.js";

export function isMissing(error: unknown): boolean {
  return systemCode(error) === "ENOENT";
}

export function isFull(error: unknown): boolean {
  const code = systemCode(error);
  return code === "ENOSPC" || code === "EDQUOT";
}

/** What is wrong with a disk, and what to do about it. */
export type DiskFault = "full" | "quota" | "failing" | "readOnly" | "forbidden" | "crowded";

const faults: Record<DiskFault, { readonly code: ErrorCode; readonly what: string; readonly advice: string }> = {
  full: {
    code: "INSUFFICIENT_STORAGE",
    what: "the disk is full",
    advice: "free space there (or inodes) or move the folder to a larger disk, then try again",
  },
  quota: {
    code: "INSUFFICIENT_STORAGE",
    what: "the disk quota is used up",
    advice: "free space there or move the folder to a larger disk, then try again",
  },
  failing: { code: "UNAVAILABLE", what: "the disk fails", advice: "look into the system's log and check the disk" },
  readOnly: { code: "UNAVAILABLE", what: "the disk is read-only", advice: "mount it writable; a disk that failed is made read-only" },
  forbidden: {
    code: "UNAVAILABLE",
    what: "access is denied",
    advice: "make the folder and all in it readable and writable for the process",
  },
  crowded: { code: "UNAVAILABLE", what: "too many files are open", advice: "raise the limit (ulimit -n) or take fewer requests at a time" },
};

const faultOf: Readonly<Record<string, DiskFault>> = {
  ENOSPC: "full",
  EDQUOT: "quota",
  EIO: "failing",
  EUCLEAN: "failing",
  ENODEV: "failing",
  ENXIO: "failing",
  ESTALE: "failing",
  EROFS: "readOnly",
  EACCES: "forbidden",
  EPERM: "forbidden",
  EMFILE: "crowded",
  ENFILE: "crowded",
};

export function diskFault(fault: DiskFault, path: string, cause: unknown): RegistryError {
  const { code, what, advice } = faults[fault];
  const reason = cause instanceof Error && code === "UNAVAILABLE" ? ` (${cause.message})` : "";
  return storageError(code, path, `${what} at ${path}: ${advice}${reason}`, { cause });
}

/** The error to throw for one of the file system: what an operator can do something about says what; everything else stays as it is. */
export function diskError(dir: string, error: unknown): unknown {
  const fault = isRegistryError(error) ? undefined : faultOf[systemCode(error) ?? ""];
  return fault ? diskFault(fault, dir, error) : error;
}

/** For folders and databases that cannot be opened at all. */
export function unusable(path: string, error: unknown): RegistryError {
  const known = diskError(path, error);
  if (isRegistryError(known)) return known;
  const reason = errorText(error);
  return storageError("UNAVAILABLE", path, `cannot use ${path} for storage: ${reason}`, { cause: error });
}
