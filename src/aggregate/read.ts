import { LRUCache } from "lru-cache";
import type { Clock } from "../core/clock.js";
import type { ManifestResolver, Member } from "../core/connector.js";
import type { Descriptor } from "../core/descriptor.js";
import { isDigest } from "../core/digest.js";
import { isDistrusted } from "../core/distrusted.js";
import { RegistryError } from "../core/errors.js";
import { type EventSink, reportFault } from "../core/events.js";
import { absent, type Lookup, mapFound, permanentReason, servedBy } from "../core/lookup.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import type { Distrust, NameMemory, NameOrigin } from "../core/storing-registry.js";
import { isLoop, isViaKnown, viaLimit } from "../core/via.js";
import { isHidden } from "../views/filtered.js";
import { type ConnectedMember, localName } from "./members.js";

interface AggregateManifestsOptions {
  readonly local: Registry;
  readonly distrust: Distrust;
  readonly resolver: ManifestResolver;
  readonly sticky: StickyNames;
  isReserved(repository: string): boolean;
  /** Called when a connector has served something of a repository. */
  served(member: string, repository: string): void;
}

/**
 * Manifests of many members: the resolver decides which member answers, and {@link StickyNames} whether that one may. Members are asked as {@link AskedMember}, which
 * notes loops; {@link Answers} makes one answer of the refusals and failures of many. {@link firstFound} is the default resolver.
 */
export class AggregateManifests {
  readonly #o: AggregateManifestsOptions;

  constructor(options: AggregateManifestsOptions) {
    this.#o = options;
  }

  /** Answers what a member states, by HEAD. A distrusted digest is asked for by GET. */
  resolve(members: readonly ConnectedMember[], repository: string, reference: string, o?: CallOptions): Promise<Lookup<Descriptor>> {
    return this.#ask(members, repository, reference, o, async (member, wanted) => {
      const stated = await member.resolveManifest(repository, wanted);
      if (stated.kind !== "found" || member.name === localName || !isDigest(wanted)) return stated;
      if (!(await isDistrusted(this.#o.distrust, repository, wanted))) return stated;
      return mapFound(await member.getManifest(repository, wanted), ({ descriptor }) => descriptor);
    });
  }

  get(members: readonly ConnectedMember[], repository: string, reference: string, o?: CallOptions): Promise<Lookup<ManifestContent>> {
    return this.#ask(members, repository, reference, o, (member, wanted) => member.getManifest(repository, wanted));
  }

  async #ask<T extends Descriptor | ManifestContent>(
    members: readonly ConnectedMember[],
    repository: string,
    reference: string,
    o: CallOptions | undefined,
    ask: (member: Member, reference: string) => Promise<Lookup<T>>,
  ): Promise<Lookup<T>> {
    const { local, resolver, sticky, isReserved } = this.#o;
    const asked = askedMembers(local, isReserved(repository) ? [] : members, o);
    // By answer, the member that gave it: the path in `served` may begin with something else, and a resolver may ask several.
    const answered = new Map<T, string>();
    const lookup = await resolver.resolve({ repository, reference, members: asked }, async (member, wanted = reference) => {
      const answer = await ask(member, wanted);
      if (answer.kind === "found") answered.set(answer.value, member.name);
      return answer;
    });
    const loop = isViaKnown(o) ? undefined : loopAmong(asked);
    if (loop) return loop;
    if (lookup.kind !== "found" || asked.length === 1) return lookup;
    const winner = answered.get(lookup.value);
    if (winner !== undefined && winner !== localName) this.#o.served(winner, repository);
    if (reference.includes(":")) return lookup;
    const error = winner === undefined ? undefined : await sticky.refusal(repository, reference, winner);
    return error ? { kind: "denied", error } : lookup;
  }
}

/**
 * Answers for members that found a loop, where the marks that led to it may be a client's own: without them the member might have had the tag. So no other member answers
 * in its place, whatever `onFailure` says. Else a client could choose, for all who share a cache and for the name's origin, which member is passed over.
 */
function loopAmong(members: readonly AskedMember[]): Lookup<never> | undefined {
  const answers = new Answers();
  for (const { name, loop } of members) if (loop) answers.note(name, loop);
  return answers.failed ? answers.fold() : undefined;
}

interface StickyNamesOptions {
  /** What happens when another member has the name too: see `sticky` of `AggregateOptions`. */
  readonly policy: "off" | "warn" | "refuse";
  /** The aggregate's. */
  readonly name: string;
  readonly memory: NameMemory;
  readonly clock: Clock;
  readonly events: EventSink;
  /** Whether there is such a member now: the name of one that was removed is free. */
  isMember(name: string): boolean;
}

/** How many names have their record in memory, and how many reported conflicts are remembered: the latest. */
const remembered = 10_000;

/** To which member a name belongs: the one that it was first served from. Another one that has it too may be somebody's who takes private names in public. */
export class StickyNames {
  readonly #o: StickyNamesOptions;
  readonly #known = new LRUCache<string, NameOrigin>({ max: remembered });
  readonly #reported = new LRUCache<string, true>({ max: remembered });

  constructor(options: StickyNamesOptions) {
    this.#o = options;
  }

  /** To which member the name belongs now. Nothing is changed by it. */
  async origin(repository: string): Promise<NameOrigin | undefined> {
    const origin = this.#known.get(repository) ?? (await this.#o.memory.get(repository));
    return origin && this.#o.isMember(origin.member) ? origin : undefined;
  }

  /**
   * Decides whether a member may answer for a tag, and remembers the first one that does.
   * @returns why it may not.
   */
  async refusal(repository: string, tag: string, member: string): Promise<RegistryError | undefined> {
    const { policy } = this.#o;
    if (policy === "off") return undefined;
    const origin = await this.#originOr(repository, member);
    if (!origin || origin.member === member) return undefined;
    const refused = this.refuses(member);
    this.#tell(repository, tag, member, origin, refused);
    return refused ? conflict(repository, member, origin) : undefined;
  }

  /** Whether a member is refused where the name belongs to another. The local one never is: what is pushed here is meant to be served. */
  refuses(member: string): boolean {
    return this.#o.policy === "refuse" && member !== localName;
  }

  async #originOr(repository: string, member: string): Promise<NameOrigin | undefined> {
    const { memory, clock, events, name, policy } = this.#o;
    const known = this.#known.get(repository);
    if (known && this.#o.isMember(known.member)) return known;
    try {
      const stored = await memory.get(repository);
      const free = !stored || !this.#o.isMember(stored.member);
      const origin = free ? await memory.bind(repository, { member, since: clock.now() }, stored) : stored;
      this.#known.set(repository, origin);
      return origin;
    } catch (error) {
      if (policy === "refuse") throw error;
      reportFault({ events, clock, name }, `whose the name ${repository} is could not be remembered`, error);
      return undefined;
    }
  }

  #tell(repository: string, reference: string, member: string, origin: NameOrigin, refused: boolean): void {
    const pair = `${repository} ${member}`;
    if (this.#reported.has(pair)) return;
    this.#reported.set(pair, true);
    const { clock, events, name } = this.#o;
    const whose = { origin: origin.member, since: origin.since };
    events.emit("conflict", { time: clock.now(), registry: name, repository, reference, member, ...whose, refused });
  }
}

function conflict(repository: string, member: string, origin: NameOrigin): RegistryError {
  const message = `${repository} is served from ${origin.member} since ${new Date(origin.since).toISOString()}, and ${member} claims it now`;
  return new RegistryError("DENIED", message, { detail: { members: [{ member, code: "DENIED", message }] } });
}

/** The default resolver: by tag the first member that is not absent decides. By digest the search goes on, since no member can give other bytes. */
export const firstFound: ManifestResolver = {
  name: "firstFound",
  async resolve({ reference, members }, ask) {
    const answers = new Answers();
    const byDigest = reference.includes(":");
    for (const member of members) {
      const lookup = await ask(member);
      if (lookup.kind === "found") return member === members[0] ? lookup : servedBy(member.name, lookup);
      if (answers.note(member.name, lookup) && !byDigest && member.onFailure === "stop") break;
    }
    return answers.fold();
  },
};

/** A refusal or failure of a member. */
type FailedLookup = Extract<Lookup<never>, { kind: "denied" | "unavailable" }>;

interface MemberFailure {
  readonly member: string;
  readonly failure: FailedLookup;
}

/** A member's failure in the `detail` of the error that many of them became. */
export interface ToldFailure {
  readonly member: string;
  readonly code: string;
  readonly message: string;
  /** In seconds. */
  readonly retryAfter?: number;
}

/** Seconds, where no member says when to come back. */
const defaultRetryAfter = 30;

/**
 * Makes one answer where no member had what was asked for: absent only if all said so; a permanent failure where every failure is one; DENIED where filters hide it and their hosts want that said; TOOMANYREQUESTS if every
 * failure was one; else UNAVAILABLE. Never silently absent: a client that is told "absent" may go to a public registry for a private name (dependency confusion). A member's
 * 401 becomes none of ours: who signs in here is nobody there.
 */
function foldFailures(failures: readonly MemberFailure[]): Lookup<never> {
  const [first] = failures;
  if (!first) return absent;
  // Not a failure that may pass: filters of this very aggregate hide it, and their host wants that said.
  if (failures.every(({ failure }) => isHidden(failure.error))) return { kind: "denied", error: first.failure.error };
  // Whoever did not fail has no such thing, so nothing would change by asking again.
  if (failures.every(({ failure }) => failure.kind === "denied" && failure.permanent)) return permanent(failures, first);
  return { kind: "unavailable", error: foldedError(failures, first) };
}

function permanent(failures: readonly MemberFailure[], { member, failure }: MemberFailure): Lookup<never> {
  const { error } = failure;
  const members = failures.map(told);
  const detail = { members, permanent: permanentReason(error) ?? error.message };
  const { code, status } = error;
  return {
    kind: "denied",
    permanent: true,
    error: new RegistryError(code, `${member}: ${error.message}`, { status, cause: error, detail }),
  };
}

function told({ member, failure: { error } }: MemberFailure): ToldFailure {
  const { code, message, retryAfter } = error;
  return { member, code, message, ...(retryAfter !== undefined && { retryAfter }) };
}

function foldedError(failures: readonly MemberFailure[], first: MemberFailure): RegistryError {
  const errors = failures.map(({ failure }) => failure.error);
  const code = errors.every((error) => error.code === "TOOMANYREQUESTS") ? "TOOMANYREQUESTS" : "UNAVAILABLE";
  const waits = errors.flatMap((error) => error.retryAfter ?? []);
  const members = failures.map(told);
  const loop = errors.some(isLoop);
  return new RegistryError(code, members.map(({ member, message }) => `${member}: ${message}`).join("; "), {
    retryAfter: waits.length > 0 ? Math.min(...waits) : defaultRetryAfter,
    cause: first.failure.error,
    detail: { members, ...(loop && { loop }) },
  });
}

/** Collects refusals and failures of members, until one has what is asked for. */
export class Answers {
  readonly #failures: MemberFailure[] = [];

  get failed(): boolean {
    return this.#failures.length > 0;
  }

  /** Notes a refusal or failure; whether it was one. */
  note(member: string, lookup: Lookup<unknown>): boolean {
    if (lookup.kind !== "denied" && lookup.kind !== "unavailable") return false;
    this.#failures.push({ member, failure: lookup });
    return true;
  }

  fold(): Lookup<never> {
    return foldFailures(this.#failures);
  }
}

/**
 * Ends a question that comes back to the aggregate that passed it on. The error names the aggregate; each aggregate that the answer passes on its way back adds the
 * connector that it asked, so that the whole chain can be read.
 *
 * @param hop what the aggregate calls itself in `via`.
 */
export function loopOf(name: string, hop: string, o: CallOptions | undefined): Lookup<never> | undefined {
  const via = o?.via;
  if (!via) return undefined;
  const again = via.includes(hop);
  if (!again && via.length < viaLimit) return undefined;
  const message = again
    ? `loop: ${name} is asked by itself, through ${via.length - via.indexOf(hop) - 1} other aggregates`
    : `loop: ${name} is asked through ${via.length} aggregates`;
  const members = [{ member: name, code: "UNAVAILABLE", message }];
  return { kind: "unavailable", error: new RegistryError("UNAVAILABLE", message, { retryAfter: 30, detail: { members, loop: true } }) };
}

/** A member as a resolver sees it during one question. */
class AskedMember implements Member {
  readonly name: string;
  readonly onFailure: "stop" | "next";
  readonly #registry: Registry;
  readonly #call: CallOptions | undefined;
  #loop: FailedLookup | undefined;

  constructor(name: string, onFailure: "stop" | "next", registry: Registry, call: CallOptions | undefined) {
    this.name = name;
    this.onFailure = onFailure;
    this.#registry = registry;
    this.#call = call;
  }

  /** What the member answered when it was asked for a tag and found a loop. */
  get loop(): FailedLookup | undefined {
    return this.#loop;
  }

  async resolveManifest(repository: string, reference: string): Promise<Lookup<Descriptor>> {
    return this.#noted(reference, await this.#registry.resolveManifest(repository, reference, this.#call));
  }

  async getManifest(repository: string, reference: string): Promise<Lookup<ManifestContent>> {
    return this.#noted(reference, await this.#registry.getManifest(repository, reference, this.#call));
  }

  #noted<T>(reference: string, lookup: Lookup<T>): Lookup<T> {
    if (lookup.kind === "unavailable" && !isDigest(reference) && isLoop(lookup.error)) this.#loop = lookup;
    return lookup;
  }
}

/** The members that may be asked by name, the local one first. */
function askedMembers(local: Registry, members: readonly ConnectedMember[], call: CallOptions | undefined): readonly AskedMember[] {
  const own = new AskedMember(localName, "stop", local, call);
  const others = members.flatMap(({ connector, byName }) =>
    byName ? [new AskedMember(connector.name, connector.onFailure ?? "stop", byName, call)] : [],
  );
  return [own, ...others];
}
