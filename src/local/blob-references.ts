import type { Readable } from "node:stream";
import { isDeepStrictEqual } from "node:util";
import { LRUCache } from "lru-cache";
import { expectedSizeOf, type LinkValue, lastUseOf, useGranularity } from "../core/blob-reference.js";
import { wholeBody } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, digestOf, parseDigest } from "../core/digest.js";
import { isDistrusted } from "../core/distrusted.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { reportFault } from "../core/events.js";
import { absent, found, type Lookup, type Origin, type ReferencedBlob } from "../core/lookup.js";
import { mediaTypes } from "../core/media-types.js";
import type { Change, Condition, StoredRecord } from "../core/metadata-store.js";
import { parseRepositoryName } from "../core/name.js";
import { resolveRange } from "../core/range.js";
import { type RecordKey, type RecordTypes, recordKey } from "../core/records.js";
import type { BlobContent, DeleteOptions, GetBlobOptions, MountOptions } from "../core/registry.js";
import type { Distrust } from "../core/storing-registry.js";
import type { Partition } from "./partition.js";
import { assertUnprotected } from "./protection.js";

/** Configs and signatures, mostly: to open a file for one costs several times as much as everything else about it. */
const smallBlob = 16 * 1024;
const keptBytes = 8 * 1024 * 1024;

/** Of the repositories that have a blob, so many are asked about for a mount without source: each may be a question to the host's policy. */
const mountCandidates = 100;

/** Seconds that a presigned URL is good for: a client asks for it and goes there at once, but may try again. */
const presignedFor = 15 * 60;

/** Blobs as repositories see them: a link is a repository's claim, the bytes are shared by all. */
export class LocalBlobs {
  readonly #in: Partition;
  /** By location: no other blob will be there, and only right bytes are kept, so these cannot become wrong. Whether it may be seen is asked of the records every time. */
  readonly #small = new LRUCache<string, Uint8Array>({ maxSize: keptBytes, sizeCalculation: ({ byteLength }) => byteLength + 200 });

  readonly #distrust: Distrust;

  constructor(partition: Partition, distrust: Distrust) {
    this.#in = partition;
    this.#distrust = distrust;
  }

  /** @param o.relied whoever is told yes will not send the bytes: a collection then leaves them for half its grace at least. */
  async resolve(repository: string, text: string, o: { readonly relied: boolean }): Promise<Lookup<Descriptor>> {
    const located = await this.#locate(repository, parseDigest(text), o.relied);
    return located.kind === "found" ? found(located.value.descriptor, located.served) : located;
  }

  async get(repository: string, text: string, o?: GetBlobOptions): Promise<Lookup<BlobContent>> {
    const located = await this.#locate(repository, parseDigest(text), false);
    if (located.kind !== "found") return located;
    const { descriptor, location } = located.value;
    if (o?.redirect && this.#in.blobs.presign) {
      const url = await this.#in.blobs.presign(location, { expiresIn: presignedFor });
      return found({ descriptor, content: { kind: "redirect", url } }, located.served);
    }
    if (!o?.range && descriptor.size <= smallBlob) {
      return found({ descriptor, content: { kind: "bytes", bytes: await this.#smallBytes(location, descriptor) } }, located.served);
    }
    const range = o?.range && resolveRange(o.range, descriptor.size);
    const open = () => readFaultOf(this.#in, location, this.#in.blobs.read(location, range && { range }));
    return found({ descriptor, content: { kind: "stream", open }, ...(range && { range }) }, located.served);
  }

  async #smallBytes(location: string, { digest, size }: Descriptor): Promise<Uint8Array> {
    const kept = this.#small.get(location);
    if (kept) return kept;
    const wrongSize = () => unreadableBytes(this.#in, location, new Error(`it does not have the ${size} bytes that its record tells of`));
    const read = await wholeBody(readFaultOf(this.#in, location, this.#in.blobs.read(location)), size, wrongSize);
    if (read.byteLength !== size) throw wrongSize();
    // A part of what a connection received, or of Node's pool, would keep all of that in memory.
    const bytes = read.buffer.byteLength === size ? read : new Uint8Array(read);
    // Wrong ones may be put right in their place by an operator, and are not to be served from memory then.
    if (digestOf(bytes, algorithmOf(digest)) === digest) this.#small.set(location, bytes);
    return bytes;
  }

  async #locate(repository: string, digest: Digest, relied: boolean): Promise<Lookup<{ descriptor: Descriptor; location: string }>> {
    const { name, metadata, served, clock } = this.#in;
    const key = recordKey.link(name, repository, digest);
    for (let tries = 0; tries < attempts; tries++) {
      const link = await metadata.get(key);
      if (!link) return absent;
      // A link with an origin is a claim, of a manifest or a mount, that the origin has to confirm, also where others brought the bytes here.
      const { origin } = link.value;
      const kept = origin ? undefined : await keptBlob(this.#in, digest);
      if (!origin && !kept) return absent;
      // A blob may be condemned though it is claimed: by whoever was killed before it looked again.
      const pardon = kept && kept.pardon.length > 0 ? kept : undefined;
      const use = useOf(key, link, clock.now(), relied);
      const changes = [...use.changes, ...(pardon?.pardon ?? [])];
      if (changes.length > 0 && !(await metadata.commit([...use.conditions, ...(pardon ? [pardon.condition] : [])], changes))) continue;
      if (origin) return { kind: "linked", descriptor: referencedBlob(digest, link.value), origin };
      if (!kept) return absent;
      return found(
        { descriptor: { mediaType: mediaTypes.octetStream, digest, size: kept.blob.size }, location: kept.blob.location },
        served,
      );
    }
    throw tooManyChanges(digest);
  }

  async holds(digest: Digest): Promise<Descriptor | undefined> {
    const blob = await this.#in.metadata.get(recordKey.blob(digest));
    return blob && { mediaType: mediaTypes.octetStream, digest, size: blob.value.size };
  }

  /** @throws RegistryError BLOB_UNKNOWN when a link without origin is asked for and the bytes are not here. */
  async link(repository: string, { digest, size }: ReferencedBlob, origin?: Origin): Promise<void> {
    parseRepositoryName(repository);
    const claimed = origin ? { origin, ...(size !== undefined && { expectedSize: size }) } : {};
    for (let tries = 0; tries < attempts; tries++) {
      const claim = await blobReference(this.#in, repository, digest, claimed);
      if (!claim) break;
      if (await this.#in.metadata.commit(claim.conditions, claim.changes)) return;
    }
    throw new RegistryError("BLOB_UNKNOWN", `the bytes of ${digest} are not in this store`);
  }

  /** Links what another repository of this registry has, its origin included, unless what that states was refuted. */
  async copyLink(from: string, to: string, digest: Digest): Promise<ReferencedBlob | undefined> {
    parseRepositoryName(to);
    const { name, metadata } = this.#in;
    const source = recordKey.link(name, from, digest);
    for (let tries = 0; tries < attempts; tries++) {
      const link = await metadata.get(source);
      if (!link) return undefined;
      const { origin } = link.value;
      const expectedSize = expectedSizeOf(link.value);
      if (origin) for (const repository of [from, to]) if (await isDistrusted(this.#distrust, repository, digest)) return undefined;
      const claim = await blobReference(
        this.#in,
        to,
        digest,
        origin ? { origin, ...(expectedSize !== undefined && { expectedSize }) } : {},
      );
      if (!claim) return undefined;
      const conditions: Condition[] = [{ key: source, is: "present" }, ...claim.conditions];
      if (await metadata.commit(conditions, claim.changes)) return referencedBlob(digest, link.value);
    }
    return undefined;
  }

  /** Links what some repository of this registry has: the first that the caller may read. */
  async copyAnyLink(to: string, digest: Digest, o: MountOptions | undefined): Promise<ReferencedBlob | undefined> {
    const { name, metadata } = this.#in;
    for (const from of await metadata.names({ kind: "linkByDigest", under: [digest, name], limit: mountCandidates })) {
      if (o?.permits && !(await o.permits(from))) continue;
      const copied = await this.copyLink(from, to, digest);
      if (copied) return copied;
    }
    return undefined;
  }

  async delete(repository: string, text: string, o?: DeleteOptions): Promise<void> {
    const digest = parseDigest(text);
    const { name, metadata } = this.#in;
    const key = recordKey.link(name, repository, digest);
    const home = recordKey.repository(name, repository);
    const changes: Change[] = [{ remove: key }, { remove: recordKey.linkByDigest(name, digest, repository) }];
    for (let tries = 0; tries < attempts; tries++) {
      const conditions: Condition[] = [{ key, is: "present" }];
      if (!(await metadata.get(key))) throw new RegistryError("BLOB_UNKNOWN", `${repository} has no blob ${digest}`);
      if (o?.protects) {
        const standing = await metadata.get(home);
        conditions.push(standing ? { key: home, is: "version", version: standing.version } : { key: home, is: "absent" });
        await assertUnprotected(this.#in, repository, digest, o.protects);
      }
      if (await metadata.commit(conditions, changes)) return;
    }
    throw tooManyChanges(digest);
  }
}

/** A conflict means that someone else's change went through; with so many in a row something other than contention is wrong. */
export const attempts = 100;

/** That the bytes are here and stay: each new claim to them is conditional on it, and lifts a condemnation. */
export interface KeptBlob {
  readonly blob: Omit<RecordTypes["blob"], "condemned">;
  readonly condition: Condition;
  readonly pardon: readonly Change[];
}

export async function keptBlob({ metadata }: Partition, digest: Digest): Promise<KeptBlob | undefined> {
  const key = recordKey.blob(digest);
  const stored = await metadata.get(key);
  if (!stored) return undefined;
  const { condemned, ...blob } = stored.value;
  return { blob, condition: { key, is: "version", version: stored.version }, pardon: condemned ? [{ put: key, value: blob }] : [] };
}

/** Where the bytes of a claim are: in this store, or at an origin, with the size that a manifest says. */
export interface ReferenceTarget {
  readonly origin?: Origin;
  readonly expectedSize?: number;
}

/**
 * A repository's claim to bytes of this store, which must be here, or to what an origin gives. One to bytes that are here is not given away for the other: who
 * pushed them would depend on the origin from then on. Only bytes that are here have a size: nobody has verified that of others.
 */
export async function blobReference(
  partition: Partition,
  repository: string,
  digest: Digest,
  { origin, expectedSize }: ReferenceTarget,
): Promise<{ readonly conditions: readonly Condition[]; readonly changes: readonly Change[] } | undefined> {
  const { name, metadata, clock } = partition;
  const key = recordKey.link(name, repository, digest);
  // First, since most bytes that are pushed are new.
  const wanted = origin ? undefined : await keptBlob(partition, digest);
  if (!origin && !wanted) return undefined;
  const own = await metadata.get(key);
  const kept = wanted ?? (own && !own.value.origin ? await keptBlob(partition, digest) : undefined);
  const leads = kept ? undefined : origin;
  const isSameWay = own !== undefined && isDeepStrictEqual(own.value.origin, leads);
  const claimed = kept ? { size: kept.blob.size } : atOrigin(origin, expectedSize ?? (isSameWay ? expectedSizeOf(own.value) : undefined));
  // What is claimed already is only used: a new version each time would let no manifest that relies on it be put.
  const isSame = isSameWay && expectedSizeOf(own.value) === expectedSizeOf(claimed);
  const changes = isSame ? useOf(key, own, clock.now(), true).changes : blobReferenceChanges(partition, repository, digest, claimed);
  const standing: Condition = own ? { key, is: "version", version: own.version } : { key, is: "absent" };
  return { conditions: [standing, ...(kept ? [kept.condition] : [])], changes: [...changes, ...(kept?.pardon ?? [])] };
}

function atOrigin(origin: Origin | undefined, expectedSize: number | undefined): LinkValue {
  return { ...(expectedSize !== undefined && { expectedSize }), ...(origin && { origin }) };
}

/** A claim's blob as others see it. */
export function referencedBlob(digest: Digest, link: LinkValue): ReferencedBlob {
  const size = expectedSizeOf(link);
  return { mediaType: mediaTypes.octetStream, digest, ...(size !== undefined && { size }) };
}

export function blobReferenceChanges({ name, clock }: Partition, repository: string, digest: Digest, claimed: LinkValue): Change[] {
  return [
    { put: recordKey.link(name, repository, digest), value: { ...claimed, linkedAt: clock.now() } },
    { put: recordKey.linkByDigest(name, digest, repository), value: {} },
  ];
}

export function tooManyChanges(digest: Digest): RegistryError {
  return new RegistryError("UNAVAILABLE", `too many changes to ${digest} at the same time: try again`, { retryAfter: 1 });
}

type Link = RecordTypes["link"];

export function withoutMark({ condemned: _, ...link }: Link): Omit<Link, "condemned"> {
  return link;
}

/**
 * What has to be written down before somebody is told that a link is there; nothing in the usual case.
 *
 * @param relied whoever asks will not send the bytes: the link must then look used. Reading them only lifts a mark.
 */
export function useOf(
  key: RecordKey<"link">,
  { value, version }: StoredRecord<"link">,
  now: number,
  relied: boolean,
): { readonly conditions: readonly Condition[]; readonly changes: readonly Change[] } {
  const old = relied && now - lastUseOf(value) >= useGranularity;
  if (!old && !value.condemned) return { conditions: [], changes: [] };
  return { conditions: [{ key, is: "version", version }], changes: [{ put: key, value: { ...withoutMark(value), usedAt: now } }] };
}

/** Tells the host that recorded bytes cannot be read; the client sees no more than a response that failed. Answers the error. */
export function unreadableBytes<E>(partition: Partition, location: string, error: E): E {
  reportFault(partition, `the bytes at ${location} cannot be read`, error);
  return error;
}

/** The same stream, whose failure to read is told. What ends it from the other side, as a reader that gives up, is no failure of the store. */
export function readFaultOf(partition: Partition, location: string, stream: Readable): Readable {
  return stream.once("error", (error) => {
    if (isRegistryError(error) || "syscall" in error) unreadableBytes(partition, location, error);
  });
}
