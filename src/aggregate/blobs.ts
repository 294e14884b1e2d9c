import type { Clock } from "../core/clock.js";
import type { Descriptor } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import type { EventSink } from "../core/events.js";
import { linkedUnlessGone } from "../core/linked-unless-gone.js";
import type { LinkingRegistry } from "../core/linking-registry.js";
import { absent, type Lookup, type Origin, servedBy } from "../core/lookup.js";
import { mountPath, namesOnPath } from "../core/mount-source.js";
import type { BlobContent, CallOptions, GetBlobOptions, MountOptions, MountSource, Registry } from "../core/registry.js";
import { Answers } from "./failures.js";
import type { ConnectedMember } from "./members.js";

export interface AggregateBlobsOptions {
  readonly name: string;
  readonly local: LinkingRegistry;
  /** Whether connectors may be asked for this repository. */
  isReserved(repository: string): boolean;
  /** Is told of what was pulled through a link. */
  pulled(repository: string, blob: Descriptor): void;
  readonly clock: Clock;
  readonly events: EventSink;
}

type Question<T> = (registry: Registry, repository: string, after: readonly ConnectedMember[]) => Promise<Lookup<T>>;

/** Blobs of many members: the local links first, then what the same name, mapped, gives at the connectors. */
export class AggregateBlobs {
  readonly #o: AggregateBlobsOptions;

  constructor(options: AggregateBlobsOptions) {
    this.#o = options;
  }

  resolve(members: readonly ConnectedMember[], repository: string, digest: string, o?: CallOptions): Promise<Lookup<Descriptor>> {
    return this.#ask(members, repository, (registry, there) => registry.resolveBlob(there, digest, o));
  }

  /** The bytes, from whoever gives them first; those who come after may help out when that one breaks off. */
  get(members: readonly ConnectedMember[], repository: string, digest: string, o?: GetBlobOptions): Promise<Lookup<BlobContent>> {
    const question: Question<BlobContent> = (registry, there, after) => {
      const otherwise: GetBlobOptions["otherwise"] = async (range, call) => {
        const wanted = { ...call, ...(o?.via && { via: o.via }), verify: false, ...(range && { range }) };
        for (const { byName } of after) {
          const answer = await byName?.getBlob(repository, digest, wanted);
          if (answer?.kind === "found") return answer;
        }
        return o?.otherwise ? o.otherwise(range, call) : absent;
      };
      return registry.getBlob(there, digest, after.length > 0 ? { ...o, otherwise } : o);
    };
    return this.#ask(members, repository, question, (blob) => this.#o.pulled(repository, blob));
  }

  /**
   * Puts one question, HEAD or GET, to whoever can answer it. The question is told who would be asked after this registry.
   * @param followed is told of a link whose blob was found.
   */
  async #ask<T>(
    members: readonly ConnectedMember[],
    repository: string,
    question: Question<T>,
    followed?: (blob: Descriptor) => void,
  ): Promise<Lookup<T>> {
    const here = await question(this.#o.local, repository, []);
    if (here.kind !== "linked" && here.kind !== "absent") return here;
    const answers = new Answers();
    const heard = <U>(member: string, lookup: Lookup<U>): Lookup<U> | undefined => {
      if (lookup.kind === "found") {
        if (here.kind === "linked") followed?.(here.descriptor);
        return servedBy(member, lookup);
      }
      answers.note(member, lookup);
      return undefined;
    };
    const named = this.#o.isReserved(repository) ? [] : members.filter(({ byName }) => byName);
    if (here.kind === "linked") {
      const { member: name, repository: there } = here.origin;
      const member = members.find(({ connector }) => connector.name === name);
      const after = named.filter((other) => other !== member);
      const answer = member && heard(name, await question(member.bySourceName, there, after));
      if (answer) return answer;
    }
    // No member can give other bytes under the same digest, so the search goes on where a link leads nowhere.
    for (const [index, { connector, byName }] of named.entries()) {
      const answer = byName && heard(connector.name, await question(byName, repository, named.slice(index + 1)));
      if (answer) return answer;
    }
    return here.kind === "linked" && !answers.failed ? this.#lost(members, repository, here) : answers.fold();
  }

  /** A link leads nowhere: what was lost is said to whoever asks, and to the host. */
  #lost(
    members: readonly ConnectedMember[],
    repository: string,
    { origin, descriptor: { digest } }: { origin: Origin; descriptor: Descriptor },
  ): Lookup<never> {
    const { clock, events, name } = this.#o;
    events.emit("dangling", { time: clock.now(), registry: name, repository, digest, origin: `${origin.member}/${origin.repository}` });
    const removed = members.every(({ connector }) => connector.name !== origin.member);
    const message = `${digest} is lost: ${
      removed ? `the connector ${origin.member}, which gave it, was removed` : `${origin.member} gives it no more from ${origin.repository}`
    }`;
    const detail = { digest, members: [{ member: origin.member, code: "BLOB_UNKNOWN", message }] };
    return { kind: "absent", error: new RegistryError("BLOB_UNKNOWN", message, { detail }) };
  }

  /**
   * Makes the blob a repository refers to known to the local member: it has it, or a connector does under the same name. A client that was told "exists" by
   * HEAD pushes the manifest without the bytes.
   * @throws RegistryError UNAVAILABLE or TOOMANYREQUESTS when nobody has it and someone who may have it could not be asked.
   */
  async claim(members: readonly ConnectedMember[], repository: string, digest: string, o?: CallOptions): Promise<void> {
    if ((await this.#o.local.resolveBlob(repository, digest, o)).kind !== "absent" || this.#o.isReserved(repository)) return;
    const answers = new Answers();
    for (const member of members) {
      const source = member.byName ? member.toSource(repository) : undefined;
      if (source === undefined) continue;
      const there = await member.bySourceName.resolveBlob(source, digest, o);
      if (there.kind === "found") {
        await this.#link(member, source, repository, there.value);
        return;
      }
      answers.note(member.connector.name, there);
    }
    const folded = answers.fold();
    if (folded.kind === "unavailable") throw folded.error;
  }

  /**
   * Mounts from this aggregate itself, from a connector's source, or from what shares the local store. Where a connector leads to what the source names, its filter
   * decides, and what it hides is not asked of the local member again.
   */
  async mount(
    members: readonly ConnectedMember[],
    outer: Registry,
    repository: string,
    digest: string,
    from: MountSource | undefined,
    o?: MountOptions,
  ): Promise<Descriptor | undefined> {
    const { local } = this.#o;
    if (!from) {
      const permits = async (theirs: string) =>
        ((await o?.permits?.(theirs)) ?? true) && (await this.#localSource(members, theirs, digest, o)) !== undefined;
      return local.mountBlob(repository, digest, undefined, { ...o, permits });
    }
    if (from.registry === outer) return this.#mountOwn(members, repository, digest, from.repository, o);
    const path = await mountPath(from, digest, o);
    if (!path) return undefined;
    const own = namesOnPath(local, path);
    for (const name of own ?? []) {
      const copied = await this.#copy(members, repository, digest, name, o);
      if (copied) return copied;
    }
    let isDecided = own !== undefined;
    for (const member of members) {
      const names = namesOnPath(member.connector.source, path);
      if (names) isDecided = true;
      for (const name of names ?? []) {
        const linked = await this.#linkFrom(member, name, repository, digest, o);
        if (linked) return linked;
      }
    }
    return isDecided ? undefined : local.mountBlob(repository, digest, from, o);
  }

  async #mountOwn(
    members: readonly ConnectedMember[],
    repository: string,
    digest: string,
    from: string,
    o?: MountOptions,
  ): Promise<Descriptor | undefined> {
    const copied = await this.#copy(members, repository, digest, from, o);
    if (copied || this.#o.isReserved(from)) return copied;
    for (const member of members) {
      const source = member.byName && member.toSource(from);
      const linked = source === undefined ? undefined : await this.#linkFrom(member, source, repository, digest, o);
      if (linked) return linked;
    }
    return undefined;
  }

  /** What the local member has, if it can be read there: a copied link would lead nowhere else than the one that it is copied from. */
  async #copy(
    members: readonly ConnectedMember[],
    repository: string,
    digest: string,
    from: string,
    o?: MountOptions,
  ): Promise<Descriptor | undefined> {
    const { local } = this.#o;
    if (!(await this.#localSource(members, from, digest, o))) return undefined;
    return local.mountBlob(repository, digest, { registry: local, repository: from }, o);
  }

  async #linkFrom(
    member: ConnectedMember,
    source: string,
    repository: string,
    digest: string,
    o?: CallOptions,
  ): Promise<Descriptor | undefined> {
    const there = await member.bySourceName.resolveBlob(source, digest, o);
    if (there.kind !== "found") return undefined;
    await this.#link(member, source, repository, there.value);
    return there.value;
  }

  /** Where a repository's blob comes from; `undefined` when it is not visible here. */
  async sourceOf(
    members: readonly ConnectedMember[],
    repository: string,
    digest: string,
    o?: CallOptions,
  ): Promise<MountSource | undefined> {
    const here = await this.#localSource(members, repository, digest, o);
    if (here || this.#o.isReserved(repository)) return here;
    for (const { connector, byName, toSource } of members) {
      const source = byName && toSource(repository);
      if (source !== undefined && (await byName?.resolveBlob(repository, digest, o))?.kind === "found")
        return { registry: connector.source, repository: source };
    }
    return undefined;
  }

  /** Where a blob comes from that the local member claims: its own store, or the link's origin, as long as the connector's filter shows it. */
  async #localSource(
    members: readonly ConnectedMember[],
    repository: string,
    digest: string,
    o?: CallOptions,
  ): Promise<MountSource | undefined> {
    const { local } = this.#o;
    const here = await local.resolveBlob(repository, digest, o);
    if (here.kind === "found") return { registry: local, repository };
    if (here.kind !== "linked") return undefined;
    const { member: name, repository: there } = here.origin;
    const member = members.find(({ connector }) => connector.name === name);
    if ((await member?.bySourceName.resolveBlob(there, digest, o))?.kind !== "found") return undefined;
    return member && { registry: member.connector.source, repository: there };
  }

  async #link(member: ConnectedMember, source: string, repository: string, blob: Descriptor): Promise<void> {
    const { local } = this.#o;
    // Bytes in the same store need no origin: the link alone keeps them. Unless they go at this moment: the member has said that it gives them all the same.
    if ((await local.holdsBlob(blob.digest)) && (await linkedUnlessGone(local, repository, blob))) return;
    await local.linkBlob(repository, blob, { member: member.connector.name, repository: source });
  }
}
