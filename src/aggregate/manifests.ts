import type { ManifestResolver, Member } from "../core/connector.js";
import type { Descriptor } from "../core/descriptor.js";
import { isDigest } from "../core/digest.js";
import { isDistrusted } from "../core/distrusted.js";
import type { Distrust } from "../core/linking-registry.js";
import { type Lookup, mapFound } from "../core/lookup.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { isVouchedFor } from "../core/via.js";
import { Answers } from "./failures.js";
import { type ConnectedMember, localName } from "./members.js";
import { type Party, partiesOf } from "./parties.js";
import type { StickyNames } from "./sticky.js";

export interface AggregateManifestsOptions {
  readonly local: Registry;
  readonly distrust: Distrust;
  readonly resolver: ManifestResolver;
  readonly sticky: StickyNames;
  isReserved(repository: string): boolean;
  /** Told that a connector served something of a repository. */
  served(member: string, repository: string): void;
}

/** Manifests of many members: the resolver decides who answers, and the name's origin whether that one may. */
export class AggregateManifests {
  readonly #o: AggregateManifestsOptions;

  constructor(options: AggregateManifestsOptions) {
    this.#o = options;
  }

  /** What a member states, by HEAD. Once that was refuted for a digest, its bytes are asked for. */
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
    const parties = partiesOf(local, isReserved(repository) ? [] : members, o);
    // Which member an answer came from: the path in `served` may begin with something else, and a resolver may ask several.
    const answered = new Map<T, string>();
    const lookup = await resolver.resolve({ repository, reference, members: parties }, async (member, wanted = reference) => {
      const answer = await ask(member, wanted);
      if (answer.kind === "found") answered.set(answer.value, member.name);
      return answer;
    });
    const loop = isVouchedFor(o) ? undefined : loopAmong(parties);
    if (loop) return loop;
    if (lookup.kind !== "found" || parties.length === 1) return lookup;
    const winner = answered.get(lookup.value);
    if (winner !== undefined && winner !== localName) this.#o.served(winner, repository);
    if (reference.includes(":")) return lookup;
    const error = winner === undefined ? undefined : await sticky.refusal(repository, reference, winner);
    return error ? { kind: "denied", error } : lookup;
  }
}

/**
 * A loop that marks of a client's own may have led to: without them the member might have had the tag. So no other member answers in its place, whatever
 * `onFailure` says, or a client could choose for all who share a cache, and for the name's origin, which member is passed over.
 */
function loopAmong(parties: readonly Party[]): Lookup<never> | undefined {
  const answers = new Answers();
  for (const { name, loop } of parties) if (loop) answers.note(name, loop);
  return answers.failed ? answers.fold() : undefined;
}
