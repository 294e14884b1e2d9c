import { isDigest } from "../core/digest.js";
import { showsEverything } from "../views/filtered.js";
import type { ConnectedMember } from "./members.js";

/** What a connector's patterns say of one reference. Its other rules (platforms, sizes, ages) are about content, and show in the member's answer. */
export interface FilterVerdict {
  readonly visible: boolean;
  /** The pattern that decided, as it was written. Absent: none fits, or a digest was decided by what permitted tags have led to. */
  readonly pattern?: string;
  readonly why: "no filter" | "allowed" | "blocked" | "not allowed" | "a permitted tag led to it" | "no permitted tag led to it yet";
}

/** @param name the source's one name for the repository. */
export async function verdictOf(
  { connector: { reach: _, ...filter }, patterns, visibleDigests }: ConnectedMember,
  name: string,
  reference: string,
): Promise<FilterVerdict> {
  if (showsEverything(filter)) return { visible: true, why: "no filter" };
  const byDigest = isDigest(reference);
  if (byDigest && patterns.repository(name) === "tags" && filter.digests !== "any") {
    const visible = await visibleDigests.knows(name, reference);
    return { visible, why: visible ? "a permitted tag led to it" : "no permitted tag led to it yet" };
  }
  const { visible, pattern } = patterns.verdict(name, byDigest ? undefined : reference);
  const why = visible ? "allowed" : pattern === undefined ? "not allowed" : "blocked";
  return { visible, why, ...(pattern !== undefined && { pattern }) };
}
