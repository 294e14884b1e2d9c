import type { ManifestResolver, Member } from "../core/connector.js";
import type { Descriptor } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import { type Lookup, servedBy } from "../core/lookup.js";
import type { ManifestContent } from "../core/registry.js";
import { Answers, firstFound } from "./read.js";

/**
 * A resolver for which a tag means one thing: every member is asked, and where two have it they must have the same digest. Otherwise the answer is DENIED (409), naming
 * the members and their digests. A member that fails is an error, unless its connector says `onFailure: "next"`. Digests are resolved as by `firstFound`.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry } from "oci-manifold";
 * import { strict } from "oci-manifold/resolvers";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * const all = aggregate({
 *   local: localRegistry({ storage, name: "all" }),
 *   connectors: [{ name: "release", source: localRegistry({ storage, name: "release" }) }],
 *   resolver: strict,
 * });
 * await all.close();
 * ```
 */
export const strict: ManifestResolver = {
  name: "strict",
  async resolve(question, ask) {
    const { repository, reference, members } = question;
    if (reference.includes(":")) return firstFound.resolve(question, ask);
    // Only the first that has it is asked for what is wanted; of the others the digest is enough.
    const first = await firstAnswer(members, ask);
    const others = await Promise.all(
      members.slice(first.asked).map(async (member) => ({ member, lookup: await member.resolveManifest(repository, reference) })),
    );
    const answers = new Answers();
    for (const { member, lookup } of [...first.before, ...others]) if (member.onFailure === "stop") answers.note(member.name, lookup);
    if (answers.failed) return answers.fold();
    if (!first.answer) {
      for (const { member, lookup } of first.before) answers.note(member.name, lookup);
      return answers.fold();
    }
    const { member, lookup } = first.answer;
    const digest = digestOf(lookup.value);
    const present = others.flatMap((other) =>
      other.lookup.kind === "found" ? [{ member: other.member.name, digest: other.lookup.value.digest }] : [],
    );
    if (present.every((other) => other.digest === digest)) return member === members[0] ? lookup : servedBy(member.name, lookup);
    return disagreement(repository, reference, [{ member: member.name, digest }, ...present]);
  },
};

type Found<T> = Extract<Lookup<T>, { kind: "found" }>;
interface MemberAnswer<T> {
  readonly member: Member;
  readonly lookup: T;
}

async function firstAnswer<T>(
  members: readonly Member[],
  ask: (member: Member) => Promise<Lookup<T>>,
): Promise<{ asked: number; before: readonly MemberAnswer<Lookup<T>>[]; answer?: MemberAnswer<Found<T>> }> {
  const before: MemberAnswer<Lookup<T>>[] = [];
  for (const [index, member] of members.entries()) {
    const lookup = await ask(member);
    if (lookup.kind === "found") return { asked: index + 1, before, answer: { member, lookup } };
    before.push({ member, lookup });
  }
  return { asked: members.length, before };
}

function digestOf(value: Descriptor | ManifestContent): string {
  return "descriptor" in value ? value.descriptor.digest : value.digest;
}

function disagreement(repository: string, tag: string, present: readonly { member: string; digest: string }[]): Lookup<never> {
  const digests = present.map(({ member, digest }) => `${digest} at ${member}`).join(", ");
  const members = present.map(({ member, digest }) => ({ member, code: "DENIED", message: `has ${digest}`, digest }));
  // 409: the request is fine, the state is not (RFC 9110, "409 Conflict").
  const error = new RegistryError("DENIED", `members disagree on ${repository}:${tag}: it is ${digests}`, {
    status: 409,
    detail: { members },
  });
  return { kind: "denied", error };
}
