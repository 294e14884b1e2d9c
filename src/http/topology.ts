import type { ErrorCode, RegistryError } from "../core/errors.js";

/** What those are told who may not know of members: what went wrong, not where. */
const neutral: Partial<Record<ErrorCode, string>> = {
  UNAVAILABLE: "a registry behind this one cannot answer at the moment: try again later",
  TOOMANYREQUESTS: "a registry behind this one asks for fewer requests: try again later",
  DENIED: "a registry behind this one does not allow this",
  BLOB_UNKNOWN: "not found",
  MANIFEST_UNKNOWN: "not found",
};

const loop = "loop: a registry behind this one leads back to it";

/** An aggregate's error tells of its members in `detail.members`; then its message may name them too. Others are as they are. */
export function withoutMembers({ code, message, detail }: RegistryError): { message: string; detail: unknown } {
  if (typeof detail !== "object" || detail === null || !("members" in detail)) return { message, detail };
  const { members: _, ...rest } = detail;
  const told = "loop" in rest ? loop : (neutral[code] ?? "a registry behind this one could not do this");
  return { message: told, detail: Object.keys(rest).length > 0 ? rest : undefined };
}

/** A warning says what it is about, then a colon, then why: that may name members and what they said. */
export function withoutReason(line: string): string {
  return line.replace(/^(299 - "(?:[^"\\:]|\\.|:(?! ))*): .*"$/, '$1"');
}
