import type { ManifestResolver } from "../core/connector.js";
import { RegistryError } from "../core/errors.js";
import { absent, type Lookup, servedBy } from "../core/lookup.js";

/** Refusals and failures of members, on the way to one answer. */
export type Failure = Extract<Lookup<never>, { kind: "denied" | "unavailable" }>;

/**
 * No member had it: absent only if all said so, TOOMANYREQUESTS if every failure was one, else UNAVAILABLE. Never silently absent: a client that is
 * told "absent" may go to a public registry for a private name (dependency confusion).
 */
export function foldFailures(failures: readonly { member: string; failure: Failure }[]): Lookup<never> {
  if (failures.length === 0) return absent;
  const errors = failures.map(({ failure }) => failure.error);
  const code = errors.every((error) => error.code === "TOOMANYREQUESTS") ? "TOOMANYREQUESTS" : "UNAVAILABLE";
  const waits = errors.flatMap((error) => error.retryAfter ?? []);
  const message = failures.map(({ member, failure }) => `${member}: ${failure.error.message}`).join("; ");
  return {
    kind: "unavailable",
    error: new RegistryError(code, message, { retryAfter: waits.length > 0 ? Math.min(...waits) : 30, cause: errors[0] }),
  };
}

/** The default resolver: by tag the first member that is not absent decides, by digest the search goes on, since no member can give other bytes. */
export const ordered: ManifestResolver = {
  async resolve({ reference, members }, ask) {
    const failures: { member: string; failure: Failure }[] = [];
    const byDigest = reference.includes(":");
    for (const member of members) {
      const lookup = await ask(member);
      if (lookup.kind === "found") return member === members[0] ? lookup : servedBy(member.name, lookup);
      if (lookup.kind !== "denied" && lookup.kind !== "unavailable") continue;
      failures.push({ member: member.name, failure: lookup });
      if (!byDigest && member.onFailure === "stop") break;
    }
    return foldFailures(failures);
  },
};
