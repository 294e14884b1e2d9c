import type { Clock } from "../core/clock.js";
import type { ManifestResolver, Member } from "../core/connector.js";
import type { Descriptor } from "../core/descriptor.js";
import { errorText, isRegistryError, RegistryError } from "../core/errors.js";
import { absent, type Lookup } from "../core/lookup.js";
import type { CallOptions, Registry } from "../core/registry.js";
import type { NameOrigin } from "../core/storing-registry.js";
import { type FilterVerdict, verdictOf } from "./filter-verdict.js";
import { type ConnectedMember, localName } from "./members.js";
import type { StickyNames } from "./read.js";

/** What one member answers for a reference. */
export interface ExplainedMember {
  /** `local`, or the connector's name. */
  readonly member: string;
  /** What the repository is called there. Absent: it has no name there. */
  readonly repository?: string;
  readonly filter?: FilterVerdict;
  readonly answer: "found" | "absent" | "denied" | "unavailable" | "not asked";
  readonly digest?: string;
  /** Who answered behind it, outermost first. */
  readonly path?: readonly string[];
  readonly cache?: "hit" | "miss" | "stale";
  /** Milliseconds since a cache had its answer confirmed. */
  readonly age?: number;
  /** Milliseconds that the answer took. */
  readonly duration?: number;
  readonly code?: string;
  readonly message?: string;
}

/** Which member answers for a reference, and why. */
export interface Explanation {
  readonly repository: string;
  readonly reference: string;
  /** In the order in which the aggregate knows them. */
  readonly members: readonly ExplainedMember[];
  readonly resolver: string;
  /** Only the aggregate's own registry is asked for this name. */
  readonly reserved: boolean;
  /** Whom the name was first served from. */
  readonly origin?: NameOrigin;
  /** Absent when nobody answers. */
  readonly winner?: string;
  readonly digest?: string;
  /** One sentence. */
  readonly why: string;
}

interface Explainer {
  readonly local: Registry;
  readonly resolver: ManifestResolver;
  readonly sticky: StickyNames;
  readonly clock: Clock;
  isReserved(repository: string): boolean;
}

/** A member's answer: as it is explained, and as the resolver gets it. */
interface MemberAnswer {
  readonly explained: ExplainedMember;
  readonly onFailure: "stop" | "next";
  /** Absent for a member that the resolver would not ask. */
  readonly lookup?: Lookup<Descriptor>;
}

/** Asks every member by HEAD and lets the resolver decide over the answers, so that a resolver of the host's is explained like any other. */
export async function explain(
  e: Explainer,
  members: readonly ConnectedMember[],
  repository: string,
  reference: string,
  o?: CallOptions,
): Promise<Explanation> {
  const reserved = e.isReserved(repository);
  const answers = [await askLocal(e, repository, reference, o)];
  for (const member of members) answers.push(await askMember(e, member, reserved, repository, reference, o));
  const asked = answers.flatMap(({ explained, onFailure, lookup }): Member[] =>
    lookup ? [{ name: explained.member, onFailure, resolveManifest: async () => lookup, getManifest: unasked }] : [],
  );
  const byValue = new Map<unknown, string>();
  const decided = await contained(() =>
    e.resolver.resolve<Descriptor>({ repository, reference, members: asked }, async (member, wanted = reference) => {
      const lookup = await (wanted === reference
        ? member.resolveManifest(repository, wanted)
        : askedAgain(e, members, member, repository, wanted, o));
      if (lookup.kind === "found") byValue.set(lookup.value, member.name);
      return lookup;
    }),
  );
  const origin = await e.sticky.origin(repository);
  const resolver = e.resolver.name ?? "custom";
  const about = {
    repository,
    reference,
    members: answers.map(({ explained }) => explained),
    resolver,
    reserved,
    ...(origin && { origin }),
  };
  if (decided.kind !== "found") return { ...about, why: whyNobody(decided, resolver) };
  const winner = byValue.get(decided.value) ?? decided.served.member[0] ?? localName;
  if (origin && origin.member !== winner && e.sticky.refuses(winner) && !reference.includes(":")) {
    return { ...about, why: `${winner} is refused: the name belongs to ${origin.member}` };
  }
  const why = reserved ? "the name is reserved: connectors are not asked" : `${winner} is whom the resolver "${resolver}" chose`;
  return { ...about, winner, digest: decided.value.digest, why };
}

async function askLocal(e: Explainer, repository: string, reference: string, o: CallOptions | undefined): Promise<MemberAnswer> {
  const { lookup, answer } = await timed(e.clock, () => e.local.resolveManifest(repository, reference, o));
  return { explained: { member: localName, repository, ...answer }, onFailure: "stop", lookup };
}

async function askMember(
  e: Explainer,
  member: ConnectedMember,
  reserved: boolean,
  repository: string,
  reference: string,
  o: CallOptions | undefined,
): Promise<MemberAnswer> {
  const { connector, byName, probe } = member;
  const onFailure = connector.onFailure ?? "stop";
  const there = member.toSource(repository);
  const notAsked = (message: string): MemberAnswer => ({
    explained: { member: connector.name, ...(there !== undefined && { repository: there }), answer: "not asked", message },
    onFailure,
  });
  if (there === undefined) return { ...notAsked("the name does not exist there"), lookup: absent };
  if (reserved) return notAsked("the name is reserved");
  if (!byName) return notAsked("it is asked only through links");
  const name = connector.source.canonicalName?.(there) ?? there;
  const filter = await verdictOf(member, name, reference);
  if (!filter.visible)
    return { ...notAsked("its filter hides the reference"), ...withFilter(connector.name, there, filter), lookup: absent };
  const { lookup, answer } = await timed(e.clock, () => probe.resolveManifest(repository, reference, o));
  return { explained: { member: connector.name, repository: there, filter, ...answer }, onFailure, lookup };
}

function withFilter(member: string, repository: string, filter: FilterVerdict): Pick<MemberAnswer, "explained"> {
  return { explained: { member, repository, filter, answer: "not asked", message: "its filter hides the reference" } };
}

async function timed(
  clock: Clock,
  ask: () => Promise<Lookup<Descriptor>>,
): Promise<{ lookup: Lookup<Descriptor>; answer: Omit<ExplainedMember, "member"> }> {
  const begun = clock.now();
  const lookup = await contained(ask);
  const duration = clock.now() - begun;
  switch (lookup.kind) {
    case "found": {
      const { member: path, cache, age } = lookup.served;
      const more = { ...(cache && { cache }), ...(age !== undefined && { age }) };
      return { lookup, answer: { answer: "found", digest: lookup.value.digest, path, ...more, duration } };
    }
    case "absent":
    case "linked":
      return { lookup, answer: { answer: "absent", duration } };
    case "denied":
    case "unavailable":
      return { lookup, answer: { answer: lookup.kind, code: lookup.error.code, message: lookup.error.message, duration } };
  }
}

/** A bug of one member, or of the host's resolver, must not hide what the others answer. */
async function contained(ask: () => Promise<Lookup<Descriptor>>): Promise<Lookup<Descriptor>> {
  try {
    return await ask();
  } catch (thrown) {
    const message = errorText(thrown);
    const error = isRegistryError(thrown) ? thrown : new RegistryError("UNKNOWN", message, { cause: thrown });
    return { kind: "unavailable", error };
  }
}

/** For a resolver that wants another reference than the question's. */
async function askedAgain(
  e: Explainer,
  members: readonly ConnectedMember[],
  { name }: Member,
  repository: string,
  reference: string,
  o: CallOptions | undefined,
): Promise<Lookup<Descriptor>> {
  const registry = name === localName ? e.local : members.find(({ connector }) => connector.name === name)?.probe;
  return registry ? registry.resolveManifest(repository, reference, o) : absent;
}

async function unasked(): Promise<never> {
  throw new RegistryError("UNSUPPORTED", "an explanation asks for descriptors only");
}

function whyNobody(decided: Exclude<Lookup<Descriptor>, { kind: "found" }>, resolver: string): string {
  if (decided.kind === "denied" || decided.kind === "unavailable")
    return `the resolver "${resolver}" answers ${decided.error.code}: ${decided.error.message}`;
  return "every member that was asked said that there is none";
}
