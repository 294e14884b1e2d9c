import type { Readable } from "node:stream";
import { isDeepStrictEqual } from "node:util";
import { LRUCache } from "lru-cache";
import { expectedSizeOf, lastUseOf, type ReferenceValue, useGranularity } from "../core/blob-reference.js";
import { compareAndSet, conflicted } from "../core/compare-and-set.js";
import { wholeBody } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, digestOf, parseDigest } from "../core/digest.js";
import { isDistrusted } from "../core/distrusted.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { reportFault } from "../core/events.js";
import { absent, found, type Lookup, type Origin, type ReferencedBlob } from "../core/lookup.js";
import { mediaTypes } from "../core/media-types.js";
import type { Change, Condition, MetadataStore, Storage, StoredRecord } from "../core/metadata-store.js";
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

/**
 * Blobs as repositories see them. All repositories share the bytes of a blob; a blob is visible in one that has a blob reference to it.
 *
 * {@link LocalBlobs} answers for blobs, and adds, copies and removes blob references. {@link blobReference} is what makes one; a push commits it together with the
 * blob's record (`blob-bytes.ts`). Garbage collection marks a blob or a blob reference for deletion, looks again whether it is needed, and then removes it.
 * Whoever comes to rely on it meanwhile unmarks it in the commit that does so, and the removal, which is conditional on the marked version, fails.
 */
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
    const wrongSize = () => unreadableBytes(this.#in, location, new Error(`it does not have the ${size} bytes that its record says`));
    const read = await wholeBody(readFaultOf(this.#in, location, this.#in.blobs.read(location)), size, wrongSize);
    if (read.byteLength !== size) throw wrongSize();
    // A part of what a connection received, or of Node's pool, would keep all of that in memory.
    const bytes = read.buffer.byteLength === size ? read : new Uint8Array(read);
    // Wrong ones may be put right in their place by an operator, and are not to be served from memory then.
    if (digestOf(bytes, algorithmOf(digest)) === digest) this.#small.set(location, bytes);
    return bytes;
  }

  #locate(repository: string, digest: Digest, relied: boolean): Promise<Lookup<{ descriptor: Descriptor; location: string }>> {
    const { name, metadata, served, clock } = this.#in;
    const key = recordKey.link(name, repository, digest);
    return compareAndSet(digest, async () => {
      const reference = await metadata.get(key);
      if (!reference) return absent;
      // Where it has an origin, a manifest or a mount says so. The origin has to confirm that, also where others brought the bytes here.
      const { origin } = reference.value;
      const kept = origin ? undefined : await keptBlob(this.#in, digest);
      if (!origin && !kept) return absent;
      // A blob may be marked though a repository refers to it: by a collection that was killed before it looked again.
      const unmark = kept && kept.unmark.length > 0 ? kept : undefined;
      const use = useOf(key, reference, clock.now(), relied);
      const changes = [...use.changes, ...(unmark?.unmark ?? [])];
      if (changes.length > 0 && !(await metadata.commit([...use.conditions, ...(unmark ? [unmark.condition] : [])], changes)))
        return conflicted;
      if (origin) return { kind: "linked", descriptor: referencedBlob(digest, reference.value), origin };
      if (!kept) return absent;
      return found(
        { descriptor: { mediaType: mediaTypes.octetStream, digest, size: kept.blob.size }, location: kept.blob.location },
        served,
      );
    });
  }

  async holds(digest: Digest): Promise<Descriptor | undefined> {
    const blob = await this.#in.metadata.get(recordKey.blob(digest));
    return blob && { mediaType: mediaTypes.octetStream, digest, size: blob.value.size };
  }

  /** @throws RegistryError BLOB_UNKNOWN when no origin is given and the bytes are not here. */
  async add(repository: string, { digest, size }: ReferencedBlob, origin?: Origin): Promise<void> {
    parseRepositoryName(repository);
    const target = origin ? { origin, ...(size !== undefined && { expectedSize: size }) } : {};
    await compareAndSet(digest, async () => {
      const reference = await blobReference(this.#in, repository, digest, target);
      if (!reference) throw new RegistryError("BLOB_UNKNOWN", `the bytes of ${digest} are not in this store`);
      return (await this.#in.metadata.commit(reference.conditions, reference.changes)) ? undefined : conflicted;
    });
  }

  /** Gives a repository the blob reference that another one of this registry has, its origin included, unless what that states was refuted. */
  async copy(from: string, to: string, digest: Digest): Promise<ReferencedBlob | undefined> {
    parseRepositoryName(to);
    const { name, metadata } = this.#in;
    const key = recordKey.link(name, from, digest);
    return compareAndSet(digest, async () => {
      const source = await metadata.get(key);
      if (!source) return undefined;
      const { origin } = source.value;
      const expectedSize = expectedSizeOf(source.value);
      if (origin) for (const repository of [from, to]) if (await isDistrusted(this.#distrust, repository, digest)) return undefined;
      const target = origin ? { origin, ...(expectedSize !== undefined && { expectedSize }) } : {};
      const reference = await blobReference(this.#in, to, digest, target);
      if (!reference) return undefined;
      const conditions: Condition[] = [{ key, is: "present" }, ...reference.conditions];
      return (await metadata.commit(conditions, reference.changes)) ? referencedBlob(digest, source.value) : conflicted;
    });
  }

  /** As {@link copy}, from whichever repository of this registry has the blob: the first that the caller may read. */
  async copyFromAny(to: string, digest: Digest, o: MountOptions | undefined): Promise<ReferencedBlob | undefined> {
    const { name, metadata } = this.#in;
    for (const from of await metadata.names({ kind: "linkByDigest", under: [digest, name], limit: mountCandidates })) {
      if (o?.permits && !(await o.permits(from))) continue;
      const copied = await this.copy(from, to, digest);
      if (copied) return copied;
    }
    return undefined;
  }

  async delete(repository: string, text: string, o?: DeleteOptions): Promise<void> {
    const digest = parseDigest(text);
    const { name, metadata } = this.#in;
    const key = recordKey.link(name, repository, digest);
    const listed = recordKey.repository(name, repository);
    const changes: Change[] = [{ remove: key }, { remove: recordKey.linkByDigest(name, digest, repository) }];
    await compareAndSet(digest, async () => {
      const conditions: Condition[] = [{ key, is: "present" }];
      if (!(await metadata.get(key))) throw new RegistryError("BLOB_UNKNOWN", `${repository} has no blob ${digest}`);
      if (o?.protects) {
        const stored = await metadata.get(listed);
        conditions.push(stored ? { key: listed, is: "version", version: stored.version } : { key: listed, is: "absent" });
        await assertUnprotected(this.#in, repository, digest, o.protects);
      }
      return (await metadata.commit(conditions, changes)) ? undefined : conflicted;
    });
  }
}

/** Where the bytes of a blob reference are: in this store, or at an origin, with the size that a manifest says. */
interface ReferenceTarget {
  readonly origin?: Origin;
  readonly expectedSize?: number;
}

/**
 * What makes a blob reference of a repository: to bytes of this store, which must be here, or to what an origin gives. One to bytes that are here does not become
 * one to an origin: who pushed them would depend on the origin from then on. Only bytes that are here have a size: nobody has verified that of others.
 *
 * @returns `undefined` when no origin is given and the bytes are not here.
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
  const needed = origin ? undefined : await keptBlob(partition, digest);
  if (!origin && !needed) return undefined;
  const before = await metadata.get(key);
  const kept = needed ?? (before && !before.value.origin ? await keptBlob(partition, digest) : undefined);
  const isSameOrigin = before !== undefined && isDeepStrictEqual(before.value.origin, kept ? undefined : origin);
  const value = kept
    ? { size: kept.blob.size }
    : atOrigin(origin, expectedSize ?? (isSameOrigin ? expectedSizeOf(before.value) : undefined));
  // One that is there already is only used: a new version each time would let no manifest that relies on it be put.
  const isSame = isSameOrigin && expectedSizeOf(before.value) === expectedSizeOf(value);
  const changes = isSame ? useOf(key, before, clock.now(), true).changes : blobReferenceChanges(partition, repository, digest, value);
  const unchanged: Condition = before ? { key, is: "version", version: before.version } : { key, is: "absent" };
  return { conditions: [unchanged, ...(kept ? [kept.condition] : [])], changes: [...changes, ...(kept?.unmark ?? [])] };
}

function atOrigin(origin: Origin | undefined, expectedSize: number | undefined): ReferenceValue {
  return { ...(expectedSize !== undefined && { expectedSize }), ...(origin && { origin }) };
}

export function blobReferenceChanges({ name, clock }: Partition, repository: string, digest: Digest, value: ReferenceValue): Change[] {
  return [
    { put: recordKey.link(name, repository, digest), value: { ...value, linkedAt: clock.now() } },
    { put: recordKey.linkByDigest(name, digest, repository), value: {} },
  ];
}

/** The blob of a blob reference, as others see it. */
export function referencedBlob(digest: Digest, value: ReferenceValue): ReferencedBlob {
  const size = expectedSizeOf(value);
  return { mediaType: mediaTypes.octetStream, digest, ...(size !== undefined && { size }) };
}

/**
 * What has to be written before somebody is told that a blob reference is there; nothing in the usual case.
 *
 * @param relied whoever asks will not send the bytes: the blob reference must then look used. Reading the bytes only lifts a mark.
 */
function useOf(
  key: RecordKey<"link">,
  { value, version }: StoredRecord<"link">,
  now: number,
  relied: boolean,
): { readonly conditions: readonly Condition[]; readonly changes: readonly Change[] } {
  const old = relied && now - lastUseOf(value) >= useGranularity;
  if (!old && !value.condemned) return { conditions: [], changes: [] };
  return { conditions: [{ key, is: "version", version }], changes: [{ put: key, value: { ...withoutMark(value), usedAt: now } }] };
}

/** A blob reference that is not marked for deletion. */
export function withoutMark({ condemned: _, ...reference }: RecordTypes["link"]): Omit<RecordTypes["link"], "condemned"> {
  return reference;
}

/** A blob whose bytes are here and stay: each new blob reference to them is made on this condition, and unmarks the blob. */
interface KeptBlob {
  readonly blob: Omit<RecordTypes["blob"], "condemned">;
  readonly condition: Condition;
  readonly unmark: readonly Change[];
}

export async function keptBlob({ metadata }: Partition, digest: Digest): Promise<KeptBlob | undefined> {
  const key = recordKey.blob(digest);
  const stored = await metadata.get(key);
  if (!stored) return undefined;
  const { condemned, ...blob } = stored.value;
  return { blob, condition: { key, is: "version", version: stored.version }, unmark: condemned ? [{ put: key, value: blob }] : [] };
}

/** A blob that is about to be removed. `condition`: nobody has come to rely on it since it was marked. */
export interface MarkedBlob {
  readonly digest: Digest;
  readonly blob: Omit<RecordTypes["blob"], "condemned">;
  readonly condition: Condition;
}

/**
 * Marks a blob for deletion. Whoever does looks for blob references afterwards: one that was made before is seen then, one that is made later unmarks the blob.
 *
 * @returns `undefined` when the blob's record has changed.
 */
export async function markForDeletion(
  metadata: MetadataStore,
  digest: Digest,
  { value, version }: StoredRecord<"blob">,
): Promise<MarkedBlob | undefined> {
  const key = recordKey.blob(digest);
  if (!value.condemned && !(await metadata.commit([{ key, is: "version", version }], [{ put: key, value: { ...value, condemned: true } }])))
    return undefined;
  const marked = await metadata.get(key);
  if (!marked?.value.condemned) return undefined;
  const { condemned: _, ...blob } = marked.value;
  return { digest, blob, condition: { key, is: "version", version: marked.version } };
}

export async function unmarkForDeletion(metadata: MetadataStore, { digest, blob, condition }: MarkedBlob): Promise<void> {
  await metadata.commit([condition], [{ put: recordKey.blob(digest), value: blob }]);
}

/**
 * Removes a marked blob, unless somebody has come to rely on it. The record goes first, so that none leads nowhere.
 *
 * @returns whether it is gone.
 */
export async function removeMarkedBlob(
  { metadata, blobs }: Storage,
  { digest, blob, condition }: MarkedBlob,
  changes: readonly Change[] = [],
): Promise<boolean> {
  if (!(await metadata.commit([condition], [...changes, { remove: recordKey.blob(digest) }]))) return false;
  await blobs.delete(blob.location);
  return true;
}

/** Tells the host that recorded bytes cannot be read; the client sees no more than a response that failed. Answers the error. */
function unreadableBytes<E>(partition: Partition, location: string, error: E): E {
  reportFault(partition, `the bytes at ${location} cannot be read`, error);
  return error;
}

/** The same stream. The host is told when it cannot be read. What ends it from the other side, as a reader that gives up, is no failure of the store. */
function readFaultOf(partition: Partition, location: string, stream: Readable): Readable {
  return stream.once("error", (error) => {
    if (isRegistryError(error) || "syscall" in error) unreadableBytes(partition, location, error);
  });
}
