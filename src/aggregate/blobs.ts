import { Readable } from "node:stream";
import { addedUnlessGone } from "../core/added-unless-gone.js";
import type { Clock } from "../core/clock.js";
import { type Content, contentChunks, wholeBody, withheldTail } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, digestOf, Hasher, parseDigest } from "../core/digest.js";
import { isDistrusted } from "../core/distrusted.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { type EventSink, reportFault } from "../core/events.js";
import { absent, type Lookup, mapFound, type Origin, type ReferencedBlob, servedBy } from "../core/lookup.js";
import { mountPath, namesOnPath } from "../core/mount-source.js";
import type { BlobContent, CallOptions, GetBlobOptions, MountOptions, MountSource, Registry } from "../core/registry.js";
import type { Distrust, StoringRegistry } from "../core/storing-registry.js";
import type { ConnectedMember } from "./members.js";
import { Answers } from "./read.js";

interface AggregateBlobsOptions {
  readonly name: string;
  readonly local: StoringRegistry;
  readonly distrust: Distrust;
  /** Whether connectors are never asked for this repository by name. */
  isReserved(repository: string): boolean;
  /** Called with what was pulled through a blob reference. */
  pulled(repository: string, blob: ReferencedBlob): void;
  readonly clock: Clock;
  readonly events: EventSink;
}

/** One read of a blob. @param after the members that would be asked after this registry. */
type Question<T> = (registry: Registry, repository: string, after: readonly ConnectedMember[]) => Promise<Lookup<T>>;

/**
 * Blobs of many members. A blob is looked for at the local member first, then at the origin of the local member's blob reference, then under the same name, mapped, at the
 * connectors in order.
 *
 * What a member merely states of a blob may be untrue. A digest of which a member has stated what a manifest refutes is distrusted in that repository until a GET has
 * verified its bytes: it is then answered only where bytes prove it. Mounts and pushes make blob references, with the member that gives the bytes as their origin.
 */
export class AggregateBlobs {
  readonly #o: AggregateBlobsOptions;

  constructor(options: AggregateBlobsOptions) {
    this.#o = options;
  }

  /**
   * Answers what a member states. Of a distrusted digest only bytes count: where a stored manifest may rely on the blob reference they are read, else the blob is absent. Once
   * a GET has verified them, their size takes the place of the stated one.
   */
  async resolve(members: readonly ConnectedMember[], repository: string, digest: string, o?: CallOptions): Promise<Lookup<Descriptor>> {
    const here = await this.#o.local.resolveBlob(repository, digest, o);
    if (!isNotStored(here)) return here;
    const refuted = await this.#o.distrust.get(repository, parseDigest(digest));
    const size = refuted?.verifiedSize;
    if (refuted && size === undefined) return this.#verified(members, repository, digest, here, o);
    const stated = await this.#ask(here, members, repository, (registry, there) => registry.resolveBlob(there, digest, o));
    return size === undefined ? stated : mapFound(stated, (descriptor) => ({ ...descriptor, size }));
  }

  /** The bytes, from the member that gives them first. The members after it may help out when that one breaks off. */
  async get(members: readonly ConnectedMember[], repository: string, digest: string, o?: GetBlobOptions): Promise<Lookup<BlobContent>> {
    const { local, distrust, pulled } = this.#o;
    const here = await local.getBlob(repository, digest, o);
    if (!isNotStored(here)) return here;
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
    const lookup = await this.#ask(here, members, repository, question, (blob) => pulled(repository, blob));
    if (lookup.kind !== "found" || o?.range || !(await isDistrusted(distrust, repository, parseDigest(digest)))) return lookup;
    const { content } = lookup.value;
    const watched = await watchedFor(parseDigest(digest), content, (size) => this.#record(repository, parseDigest(digest), size));
    return mapFound(lookup, (value) => ({ ...value, content: watched }));
  }

  /** Records that a GET has verified a blob. A pull does not fail because that cannot be recorded. */
  async #record(repository: string, digest: Digest, size: number): Promise<void> {
    const { distrust, clock, events, name } = this.#o;
    try {
      await distrust.verified(repository, digest, size);
    } catch (error) {
      reportFault({ events, clock, name }, `that ${digest} of ${repository} was verified could not be recorded`, error);
    }
  }

  /** Reads a blob that a manifest relies on to its end. Absent where nobody gives the right bytes: the client then sends its own. */
  async #verified(
    members: readonly ConnectedMember[],
    repository: string,
    digest: string,
    here: NotStored,
    o?: CallOptions,
  ): Promise<Lookup<Descriptor>> {
    if (!isNeeded(here)) return absent;
    try {
      const lookup = await this.get(members, repository, digest, o);
      if (lookup.kind !== "found") return absent;
      for await (const _ of contentChunks(lookup.value.content));
      const size = (await this.#o.distrust.get(repository, parseDigest(digest)))?.verifiedSize;
      return size === undefined ? absent : mapFound(lookup, ({ descriptor }) => ({ ...descriptor, size }));
    } catch (error) {
      o?.signal?.throwIfAborted();
      if (isRegistryError(error)) return absent;
      throw error;
    }
  }

  /**
   * Puts one question, HEAD or GET, to the members until one has the blob.
   * @param here what the local member says.
   * @param followed called with a blob reference that led to the blob.
   */
  async #ask<T>(
    here: NotStored,
    members: readonly ConnectedMember[],
    repository: string,
    question: Question<T>,
    followed?: (blob: ReferencedBlob) => void,
  ): Promise<Lookup<T>> {
    const answers = new Answers();
    const found = <U>(member: string, lookup: Lookup<U>): Lookup<U> | undefined => {
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
      const answer = member && found(name, await question(member.bySourceName, there, after));
      if (answer) return answer;
    }
    // No member can give other bytes under the same digest, so the search goes on where a blob reference leads nowhere.
    for (const [index, { connector, byName }] of named.entries()) {
      const answer = byName && found(connector.name, await question(byName, repository, named.slice(index + 1)));
      if (answer) return answer;
    }
    return here.kind === "linked" && !answers.failed ? this.#lost(members, repository, here) : answers.fold();
  }

  /** A blob reference leads nowhere: the caller is told what was lost, and the host by an event. */
  #lost(
    members: readonly ConnectedMember[],
    repository: string,
    { origin, descriptor: { digest } }: { origin: Origin; descriptor: ReferencedBlob },
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
   * Gives the repository a blob reference to what a pushed manifest refers to, unless the local member has it: to a member that states the size that the manifest says. A
   * client that was told "exists" by HEAD pushes the manifest without the bytes, so what a member states counts only where it agrees with the manifest, and a small
   * blob is read at once: answers to any HEAD often have two bytes (`{}`), as many as the most common config.
   * @returns `refuted` where a member stated something else: from now on the repository answers that it does not have the blob, until bytes were verified.
   * @throws RegistryError UNAVAILABLE or TOOMANYREQUESTS when nobody has it and someone who may have it could not be asked.
   */
  async refer(
    members: readonly ConnectedMember[],
    repository: string,
    blob: Descriptor,
    o?: CallOptions,
  ): Promise<"known" | "unknown" | "refuted"> {
    const { local, distrust } = this.#o;
    const { digest, size } = blob;
    const here = await local.resolveBlob(repository, digest, o);
    if (!isNotStored(here)) return "known";
    const refuted = await distrust.get(repository, digest);
    if (refuted && refuted.verifiedSize === undefined) {
      const verified = await this.#verified(members, repository, digest, here, o);
      if (verified.kind === "found" && verified.value.size === size) return "known";
      return here.kind === "linked" ? "refuted" : "unknown";
    }
    if (here.kind === "linked" && here.descriptor.size === size) return "known";
    const answers = new Answers();
    let [wasStated, wasRefuted] = [false, false];
    for (const { member, source } of this.#places(members, repository, here)) {
      const there = await member.bySourceName.resolveBlob(source, digest, o);
      answers.note(member.connector.name, there);
      if (there.kind !== "found") continue;
      wasStated = true;
      const given = (refuted?.verifiedSize ?? there.value.size) === size ? await this.#tried(member, source, blob, o) : absent;
      if (given.kind === "found") {
        await this.#addReference(member, source, repository, blob, size);
        return "known";
      }
      if (!answers.note(member.connector.name, given)) wasRefuted = true;
    }
    if (wasStated && !refuted) await distrust.add(repository, [digest]);
    if (wasRefuted) return "refuted";
    const folded = answers.fold();
    if (folded.kind === "unavailable") throw folded.error;
    // A blob reference that leads nowhere, or that no manifest has needed, would be enough for the local member.
    return here.kind === "linked" ? "refuted" : "unknown";
  }

  /** Where a blob may be: at the origin of its blob reference, then at the members that give the repository by name. */
  *#places(
    members: readonly ConnectedMember[],
    repository: string,
    here: NotStored,
  ): Generator<{ readonly member: ConnectedMember; readonly source: string }> {
    const { member: name, repository: there } = here.kind === "linked" ? here.origin : {};
    const origin = members.find(({ connector }) => connector.name === name);
    if (origin && there !== undefined) yield { member: origin, source: there };
    if (this.#o.isReserved(repository)) return;
    for (const member of members) {
      const source = member.byName ? member.toSource(repository) : undefined;
      if (source !== undefined && !(member === origin && source === there)) yield { member, source };
    }
  }

  /** Whether a member that states the right size gives the right bytes: that is known of what the store has verified, and tried with what is small. */
  async #tried(member: ConnectedMember, source: string, { digest, size }: Descriptor, o?: CallOptions): Promise<Lookup<unknown>> {
    const given = { kind: "found", value: undefined, served: { member: [] } } as const;
    if (size > withheldTail || (await this.#o.local.holdsBlob(digest))?.size === size) return given;
    const lookup = await member.bySourceName.getBlob(source, digest, o);
    if (lookup.kind !== "found") return lookup;
    const tooLarge = () =>
      new RegistryError("UNAVAILABLE", `${member.connector.name} gives more than the ${size} bytes that it states of ${digest}`);
    try {
      const bytes = await wholeBody(contentChunks(lookup.value.content), withheldTail, tooLarge);
      return digestOf(bytes, algorithmOf(digest)) === digest ? given : absent;
    } catch (error) {
      o?.signal?.throwIfAborted();
      if (isRegistryError(error)) return { kind: "unavailable", error };
      throw error;
    }
  }

  /**
   * Mounts from this aggregate itself, from a connector's source, or from what shares the local store. Where a connector leads to the repository that is mounted from, its
   * filter decides: what it hides is not mounted from the local store either.
   */
  async mount(
    members: readonly ConnectedMember[],
    outer: Registry,
    repository: string,
    digest: string,
    from: MountSource | undefined,
    o?: MountOptions,
  ): Promise<ReferencedBlob | undefined> {
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
        const mounted = await this.#mountFrom(member, name, repository, digest, o);
        if (mounted) return mounted;
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
  ): Promise<ReferencedBlob | undefined> {
    const copied = await this.#copy(members, repository, digest, from, o);
    if (copied || this.#o.isReserved(from)) return copied;
    for (const member of members) {
      const source = member.byName && member.toSource(from);
      const mounted = source === undefined ? undefined : await this.#mountFrom(member, source, repository, digest, o);
      if (mounted) return mounted;
    }
    return undefined;
  }

  /** Mounts what the local member has or refers to, if it can be read: a copied blob reference leads to the same origin. */
  async #copy(
    members: readonly ConnectedMember[],
    repository: string,
    digest: string,
    from: string,
    o?: MountOptions,
  ): Promise<ReferencedBlob | undefined> {
    const { local } = this.#o;
    if (!(await this.#localSource(members, from, digest, o))) return undefined;
    return local.mountBlob(repository, digest, { registry: local, repository: from }, o);
  }

  async #mountFrom(
    member: ConnectedMember,
    source: string,
    repository: string,
    digest: string,
    o?: CallOptions,
  ): Promise<ReferencedBlob | undefined> {
    // Of a distrusted digest what a member states is not enough.
    if (await isDistrusted(this.#o.distrust, repository, parseDigest(digest))) return undefined;
    const there = await member.bySourceName.resolveBlob(source, digest, o);
    if (there.kind !== "found") return undefined;
    return this.#addReference(member, source, repository, there.value);
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
    if (await isDistrusted(this.#o.distrust, repository, parseDigest(digest))) return undefined;
    for (const { connector, byName, toSource } of members) {
      const source = byName && toSource(repository);
      if (source !== undefined && (await byName?.resolveBlob(repository, digest, o))?.kind === "found")
        return { registry: connector.source, repository: source };
    }
    return undefined;
  }

  /** Where a blob comes from that the local member refers to: its own store, or the blob reference's origin, as long as the connector's filter shows it. */
  async #localSource(
    members: readonly ConnectedMember[],
    repository: string,
    digest: string,
    o?: CallOptions,
  ): Promise<MountSource | undefined> {
    const { local } = this.#o;
    const here = await local.resolveBlob(repository, digest, o);
    if (here.kind === "found") return { registry: local, repository };
    if (here.kind !== "linked" || (await isDistrusted(this.#o.distrust, repository, parseDigest(digest)))) return undefined;
    const { member: name, repository: there } = here.origin;
    const member = members.find(({ connector }) => connector.name === name);
    if ((await member?.bySourceName.resolveBlob(there, digest, o))?.kind !== "found") return undefined;
    return member && { registry: member.connector.source, repository: there };
  }

  /** @param blob as the member states it. @param expected the size that the manifest says, where there is one: what is merely stated is not recorded. */
  async #addReference(
    member: ConnectedMember,
    source: string,
    repository: string,
    blob: Descriptor,
    expected?: number,
  ): Promise<ReferencedBlob> {
    const { local } = this.#o;
    const { digest, mediaType, size } = blob;
    // Bytes in the same store need no origin: the blob reference alone keeps them. Where they go at this moment, the origin is recorded: the member gives them all the same.
    if ((await local.holdsBlob(digest))?.size === size && (await addedUnlessGone(local, repository, blob))) return blob;
    const reference = { mediaType, digest, ...(expected !== undefined && { size: expected }) };
    await local.addBlobReference(repository, reference, { member: member.connector.name, repository: source });
    return reference;
  }
}

type NotStored = Extract<Lookup<unknown>, { kind: "absent" | "linked" }>;

/** Whether the local member has no bytes of a blob. */
function isNotStored<T>(lookup: Lookup<T>): lookup is Extract<Lookup<T>, { kind: "absent" | "linked" }> {
  return lookup.kind === "absent" || lookup.kind === "linked";
}

/** Whether a manifest may rely on the blob reference: one that only a mount has made has no size. */
function isNeeded(here: NotStored): boolean {
  return here.kind === "linked" && here.descriptor.size !== undefined;
}

/** The same content, which calls `verified` once all of it has passed and is what its digest says. */
async function watchedFor(digest: Digest, content: Content, verified: (size: number) => Promise<void>): Promise<Content> {
  if (content.kind === "redirect") return content;
  if (content.kind === "bytes") {
    if (digestOf(content.bytes, algorithmOf(digest)) === digest) await verified(content.bytes.byteLength);
    return content;
  }
  const hashed = async function* () {
    const hasher = new Hasher(algorithmOf(digest));
    // The last chunk waits for the check: a client that has all bytes does not wait for the end of the stream.
    let last: Uint8Array | undefined;
    for await (const chunk of content.open() as AsyncIterable<Uint8Array>) {
      hasher.update(chunk);
      if (last) yield last;
      last = chunk;
    }
    if (hasher.digest() === digest) await verified(hasher.size);
    if (last) yield last;
  };
  return { kind: "stream", open: () => Readable.from(hashed(), { objectMode: false }) };
}
