import type { ErrorCode, RegistryError } from "../core/errors.js";
import { permanentReason } from "../core/lookup.js";

/** The messages for those who may not know of members: what went wrong, not where. */
const neutral: Partial<Record<ErrorCode, string>> = {
  UNAVAILABLE: "a registry behind this one cannot answer at the moment: try again later",
  TOOMANYREQUESTS: "a registry behind this one asks for fewer requests: try again later",
  DENIED: "a registry behind this one does not allow this",
  BLOB_UNKNOWN: "not found",
  MANIFEST_UNKNOWN: "not found",
};

const loop = "loop: a registry behind this one leads back to it";

/** A store's error names a path, a bucket or a server in its message, and says so in `detail.storage`. */
export function isStorageError({ detail }: RegistryError): boolean {
  return typeof detail === "object" && detail !== null && "storage" in detail;
}

/** The messages for those who may not know of these. */
const ofStorage: Partial<Record<ErrorCode, string>> = {
  INSUFFICIENT_STORAGE: "the registry's disk is full: what arrived is kept; try again when its operator has freed space",
  UNAVAILABLE: "the registry's storage cannot do this at the moment: try again later",
  BLOB_UNKNOWN: "not found",
};

/** An aggregate's error tells of its members in `detail.members`; then its message may name them too. Others are as they are. */
export function withoutPlaces(error: RegistryError): { message: string; detail: unknown } {
  const { code, message, detail } = error;
  if (isStorageError(error)) return { message: ofStorage[code] ?? "the registry's storage could not do this", detail: undefined };
  if (typeof detail !== "object" || detail === null || !("members" in detail)) return { message, detail };
  const { members: _, ...rest } = detail;
  const text = "loop" in rest ? loop : (permanentReason(error) ?? neutral[code] ?? "a registry behind this one could not do this");
  return { message: text, detail: Object.keys(rest).length > 0 ? rest : undefined };
}

/** A warning says what it is about, then a colon, then why: that may name members and quote them. */
export function withoutReason(line: string): string {
  return line.replace(/^(299 - "(?:[^"\\:]|\\.|:(?! ))*): .*"$/, '$1"');
}
