import type { Clock } from "../core/clock.js";
import type { Descriptor } from "../core/descriptor.js";
import type { EventSink } from "../core/events.js";
import { absent, type Lookup, type Origin, servedBy } from "../core/lookup.js";
import type { CallOptions, LinkingRegistry, MountSource, Registry } from "../core/registry.js";
import type { ConnectedMember } from "./members.js";
import { type Failure, foldFailures } from "./resolve.js";

export interface AggregateBlobsOptions {
  readonly name: string;
  readonly local: LinkingRegistry;
  readonly members: readonly ConnectedMember[];
  /** Whether connectors may be asked for this repository. */
  isReserved(repository: string): boolean;
  readonly clock: Clock;
  readonly events: EventSink;
}

/** Blobs of many members: the local links first, then what the same name, mapped, gives at the connectors. */
export class AggregateBlobs {
  readonly #o: AggregateBlobsOptions;

  constructor(options: AggregateBlobsOptions) {
    this.#o = options;
  }

  /** Puts one question, HEAD or GET, to whoever can answer it. */
  async ask<T>(repository: string, question: (registry: Registry, repository: string) => Promise<Lookup<T>>): Promise<Lookup<T>> {
    const here = await question(this.#o.local, repository);
    if (here.kind === "linked") return this.#follow(repository, here, question);
    if (here.kind !== "absent" || this.#o.isReserved(repository)) return here;
    const failures: { member: string; failure: Failure }[] = [];
    for (const { connector, byName } of this.#o.members) {
      const lookup = byName ? await question(byName, repository) : absent;
      if (lookup.kind === "found") return servedBy(connector.name, lookup);
      if (lookup.kind === "denied" || lookup.kind === "unavailable") failures.push({ member: connector.name, failure: lookup });
    }
    return foldFailures(failures);
  }

  async #follow<T>(
    repository: string,
    { origin, descriptor }: { origin: Origin; descriptor: Descriptor },
    question: (registry: Registry, repository: string) => Promise<Lookup<T>>,
  ): Promise<Lookup<T>> {
    const member = this.#o.members.find(({ connector }) => connector.name === origin.member);
    const lookup = member ? await question(member.bySourceName, origin.repository) : absent;
    if (lookup.kind === "found") return servedBy(origin.member, lookup);
    if (lookup.kind === "denied" || lookup.kind === "unavailable") return foldFailures([{ member: origin.member, failure: lookup }]);
    const { clock, events, name } = this.#o;
    events.emit("dangling", {
      time: clock.now(),
      registry: name,
      repository,
      digest: descriptor.digest,
      origin: `${origin.member}/${origin.repository}`,
    });
    return absent;
  }

  /**
   * Makes the blob a repository refers to known to the local member: it has it, or a connector does under the same name. `false` when nobody does.
   * A client that was told "exists" by HEAD pushes the manifest without the bytes.
   */
  async claim(repository: string, digest: string, o?: CallOptions): Promise<boolean> {
    if ((await this.#o.local.resolveBlob(repository, digest, o)).kind !== "absent") return true;
    if (this.#o.isReserved(repository)) return false;
    for (const member of this.#o.members) {
      const source = member.byName ? member.toSource(repository) : undefined;
      if (source !== undefined && (await this.#link(member, source, repository, digest, o))) return true;
    }
    return false;
  }

  /** Mounts from this aggregate itself, from a connector's source (recognised by identity), or from what shares the local store. */
  async mount(
    outer: Registry,
    repository: string,
    digest: string,
    from: MountSource | undefined,
    o?: CallOptions,
  ): Promise<Descriptor | undefined> {
    const { local, members } = this.#o;
    if (!from) return local.mountBlob(repository, digest, undefined, o);
    if (from.registry === outer) {
      const copied = await local.mountBlob(repository, digest, { registry: local, repository: from.repository }, o);
      if (copied || this.#o.isReserved(from.repository)) return copied;
    }
    for (const member of members) {
      const source =
        member.connector.source === from.registry
          ? from.repository
          : from.registry === outer && member.byName
            ? member.toSource(from.repository)
            : undefined;
      const linked = source === undefined ? undefined : await this.#link(member, source, repository, digest, o);
      if (linked) return linked;
    }
    // What is no member may still share the local store.
    return from.registry === outer ? undefined : local.mountBlob(repository, digest, from, o);
  }

  async #link(
    member: ConnectedMember,
    source: string,
    repository: string,
    digest: string,
    o?: CallOptions,
  ): Promise<Descriptor | undefined> {
    const there = await member.bySourceName.resolveBlob(source, digest, o);
    if (there.kind !== "found") return undefined;
    const here = await this.#o.local.holdsBlob(there.value.digest);
    // Bytes in the same store need no origin: the link alone keeps them.
    await this.#o.local.linkBlob(repository, there.value, here ? undefined : { member: member.connector.name, repository: source });
    return there.value;
  }
}
