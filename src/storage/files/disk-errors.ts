import { isRegistryError, RegistryError } from "../../core/errors.js";

/** The system's code of a file error, `ENOENT` for example. */
export function systemCode(error: unknown): string | undefined {
  const code = typeof error === "object" && error !== null ? (error as { code?: unknown }).code : undefined;
  return typeof code === "string" ? code : undefined;
}

export function isMissing(error: unknown): boolean {
  return systemCode(error) === "ENOENT";
}

export function isFull(error: unknown): boolean {
  const code = systemCode(error);
  return code === "ENOSPC" || code === "EDQUOT";
}

export function insufficientStorage(dir: string, cause: unknown): RegistryError {
  const what = systemCode(cause) === "EDQUOT" ? "the disk quota is used up" : "the disk is full";
  return new RegistryError(
    "INSUFFICIENT_STORAGE",
    `${what} at ${dir}: free space there or move the folder to a larger disk, then try again`,
    { cause },
  );
}

/** The error to throw for one of the file system: a full disk gets its own code and says what to do, everything else stays as it is. */
export function diskError(dir: string, error: unknown): unknown {
  return isFull(error) ? insufficientStorage(dir, error) : error;
}

/** For folders and databases that cannot be opened at all. */
export function unusable(path: string, error: unknown): RegistryError {
  if (isRegistryError(error)) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new RegistryError("UNAVAILABLE", `cannot use ${path} for storage: ${reason}`, { cause: error });
}
