import { randomBytes } from "node:crypto";
import { addAbortSignal } from "node:stream";
import type { Awaitable } from "../core/awaitable.js";
import type { BlobStore, ForeignBytes, Staged } from "../core/blob-store.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, type DigestAlgorithm, Hasher, parseDigest } from "../core/digest.js";
import { errorText, isRegistryError, isStorageFull, RegistryError } from "../core/errors.js";
import { evictFor } from "../core/eviction.js";
import { mediaTypes } from "../core/media-types.js";
import type { Change, Condition, MetadataStore, Storage, StoredRecord } from "../core/metadata-store.js";
import { parseRepositoryName } from "../core/name.js";
import { largeRead, withReadSize } from "../core/read-size.js";
import { type RecordTypes, recordKey } from "../core/records.js";
import type { CallOptions } from "../core/registry.js";
import { attempts, blobReference, blobReferenceChanges, keptBlob, tooManyChanges } from "./blob-references.js";
import type { Partition } from "./partition.js";

/** The way of staged bytes into the store. Whatever fails on it leaves the bytes to another try or to the collection, never a record without bytes. */
export class BlobIntake {
  readonly #in: Partition;
  readonly #committed = new WeakMap<Staged, { readonly location: string; readonly at: number }>();
  /** Whose records may have been written although the store could not say so: a crash can bring them back, and then the bytes must be there. */
  readonly #uncertain = new WeakSet<Staged>();

  constructor(partition: Partition) {
    this.#in = partition;
  }

  /**
   * Turns staged bytes into a visible blob. They become durable before anything refers to them; when another upload of the same bytes was faster,
   * ours are given up for theirs.
   *
   * @param o.hashed the caller hashed every byte on its way in and vouches for the digest. Else the bytes are read again, after they were made
   *   durable, since an object store cannot read what is only staged.
   * @param o.held answers what must hold for the outcome to be recorded; its throw ends the adoption, and nothing of it is left.
   * @throws RegistryError DIGEST_INVALID when the bytes are others; nothing of them is left.
   */
  async adopt(
    repository: string,
    digest: Digest,
    staged: Staged,
    o: { hashed: boolean; more?: readonly Change[]; held?: () => Promise<Condition> },
  ): Promise<Descriptor> {
    const { blobs, metadata, clock } = this.#in;
    const descriptor = { mediaType: mediaTypes.octetStream, digest, size: staged.size };
    const key = recordKey.blob(digest);
    const changes = [...blobReferenceChanges(this.#in, repository, digest, { size: descriptor.size }), ...(o.more ?? [])];
    // Before the bytes are made durable, for what could not be taken back: the session survives, and can go on when there is room.
    await this.#in.quota?.admit(repository, digest, descriptor.size);
    const claim = o.hashed ? await blobReference(this.#in, repository, digest, {}) : undefined;
    const held = async () => (o.held ? [await o.held()] : []);
    if (claim && (await metadata.commit([...claim.conditions, ...(await held())], [...claim.changes, ...(o.more ?? [])]))) {
      await staged.abort();
      return descriptor;
    }
    // A commit whose records failed is tried again: the bytes are in their place already.
    const { location, at } = this.#committed.get(staged) ?? { location: await staged.commit(digest), at: clock.now() };
    this.#committed.set(staged, { location, at });
    if (clock.now() - at > recordedWithin) throw tooLate(digest);
    const actual = o.hashed ? digest : await this.#digestOf(location, digest);
    if (actual !== digest) {
      await this.#giveUp(actual, staged, location);
      throw digestMismatch(digest);
    }
    const blob: Change = { put: key, value: { location, size: descriptor.size, committedAt: clock.now() } };
    for (let tries = 0; tries < attempts; tries++) {
      const theirs = await keptBlob(this.#in, digest);
      const condition: Condition = theirs?.condition ?? { key, is: "absent" };
      const right = await held().catch(async (error) => {
        // What failed first is what to tell; what cannot be freed now is left to the collection.
        await this.#giveUp(digest, staged, location).catch(() => {});
        throw error;
      });
      const records = theirs ? [condition] : [condition, notOrphaned(location)];
      const recorded = metadata.commit([...records, ...right], [...changes, ...(theirs?.pardon ?? [blob])]).catch((error) => {
        if (!isStorageFull(error)) this.#uncertain.add(staged);
        throw error;
      });
      if (!(await recorded)) {
        if (!theirs && (await metadata.get(notOrphaned(location).key))) throw tooLate(digest);
        continue;
      }
      this.#committed.delete(staged);
      if (theirs && theirs.blob.location !== location) await blobs.delete(location);
      return descriptor;
    }
    throw tooManyChanges(digest);
  }

  /**
   * Frees bytes in their place without the right to record them. Who has the right now may have put them there as well, since an object store keeps one location for
   * an upload: what he recorded before the mark is seen, and behind it he cannot record it.
   */
  async #giveUp(digest: Digest, staged: Staged, location: string): Promise<void> {
    if (this.mayBeRecorded(staged)) return;
    const { metadata, blobs, clock } = this.#in;
    await metadata.commit([], [orphaned(location, clock.now(), "upload")]);
    if ((await keptBlob(this.#in, digest))?.blob.location !== location) await blobs.delete(location);
  }

  /** Whether a record may refer to what a failed `adopt` was given: then only the collection can tell that none does. */
  mayBeRecorded(staged: Staged): boolean {
    return this.#uncertain.has(staged);
  }

  /** Frees what a failed `adopt` has put in its place, when nobody tries again; what a record may refer to is left to the collection. Idempotent. */
  async abandon(digest: Digest, staged: Staged): Promise<void> {
    const location = this.#committed.get(staged)?.location;
    if (location === undefined || this.mayBeRecorded(staged) || (await keptBlob(this.#in, digest))?.blob.location === location) return;
    this.#committed.delete(staged);
    await this.#in.blobs.delete(location);
  }

  async #digestOf(location: string, expected: Digest): Promise<Digest> {
    const hasher = new Hasher(algorithmOf(expected));
    for await (const chunk of withReadSize(this.#in.blobs.read(location), largeRead)) hasher.update(chunk);
    return hasher.digest();
  }
}

function tooLate(digest: Digest): RegistryError {
  return new RegistryError("BLOB_UPLOAD_UNKNOWN", `the bytes of ${digest} waited too long to be recorded: start a new upload`);
}

export function digestMismatch(digest: Digest): RegistryError {
  // Not BLOB_UPLOAD_INVALID, which crane retries.
  return new RegistryError("DIGEST_INVALID", `the uploaded bytes are not ${digest}; the upload is discarded, start a new one`);
}

/** What is stored at a location, whatever the records say about it; `unreadable` says nothing about it. */
export type StoredBytes = { readonly size: number; readonly digests: readonly Digest[] } | "missing" | "unreadable";

export interface StoredBytesOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with the size of each chunk that was read; the next one waits for it. */
  readonly read?: (bytes: number) => Awaitable<void>;
}

/**
 * Reads and hashes all that is stored at a location, by each of these algorithms.
 *
 * @throws the signal's reason, and what `read` throws.
 */
export async function storedBytesAt(
  blobs: BlobStore,
  location: string,
  algorithms: readonly DigestAlgorithm[],
  { signal = new AbortController().signal, read }: StoredBytesOptions = {},
): Promise<StoredBytes> {
  const hashers = algorithms.map((algorithm) => new Hasher(algorithm));
  let size = 0;
  try {
    for await (const chunk of chunksAt(blobs, location, signal)) {
      for (const hasher of hashers) hasher.update(chunk);
      size += chunk.byteLength;
      await read?.(chunk.byteLength);
    }
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof ReadFailure)) throw error;
    return isRegistryError(error.cause) && error.cause.code === "BLOB_UNKNOWN" ? "missing" : "unreadable";
  }
  return { size, digests: hashers.map((hasher) => hasher.digest()) };
}

/** The store's failure, as opposed to one of the code that reads. `cause` is what the store threw. */
export class ReadFailure extends Error {}

/**
 * The bytes at a location, in large pieces.
 * @throws ReadFailure when the store cannot read; the signal's reason as its `cause`.
 */
export async function* chunksAt(
  blobs: BlobStore,
  location: string,
  signal: AbortSignal,
  o: { range?: { start: number; end: number } } = {},
): AsyncGenerator<Uint8Array> {
  try {
    signal.throwIfAborted();
    yield* withReadSize(addAbortSignal(signal, blobs.read(location, o)), largeRead);
  } catch (cause) {
    throw new ReadFailure("the store could not read", { cause });
  }
}

export interface TakeBlobOptions extends CallOptions {
  /** Default: true, all bytes are read back and hashed before anybody can see them. `false`: the caller vouches for digest and size. */
  readonly verify?: boolean;
  /** Told of every chunk that was read to verify. */
  readonly read?: (bytes: number) => void;
}

/**
 * Makes bytes that another program keeps a blob of a repository, by what the store can do itself. For everybody else it is a push: quota, bytes that are here already,
 * condemnation and pushes of the same at the same time are the same to it.
 */
export async function takeBlob(
  partition: Partition,
  intake: BlobIntake,
  repository: string,
  expected: { readonly digest: string; readonly size: number },
  source: ForeignBytes,
  o: TakeBlobOptions = {},
): Promise<Descriptor | undefined> {
  parseRepositoryName(repository);
  const digest = parseDigest(expected.digest);
  const { size } = expected;
  o.signal?.throwIfAborted();
  await partition.quota?.admit(repository, digest, size);
  const location = await copied(partition, source, digest, size);
  if (location === undefined) return undefined;
  const staged = new TakenBytes(partition, location, digest, size);
  try {
    // Read from where they are now: whatever was changed or exchanged at the source before or meanwhile is seen.
    if (o.verify ?? true) await verified(partition, location, digest, size, o);
    o.signal?.throwIfAborted();
    return await intake.adopt(repository, digest, staged, { hashed: true });
  } catch (error) {
    // The failure that came first is the one to tell; bytes that nothing refers to are garbage.
    if (!intake.mayBeRecorded(staged)) await staged.abort().catch(() => {});
    throw error;
  }
}

async function copied({ blobs }: Partition, source: ForeignBytes, digest: Digest, size: number): Promise<string | undefined> {
  for (;;) {
    try {
      return await blobs.copyFrom?.(source, digest);
    } catch (error) {
      if (!isRegistryError(error) || error.code !== "INSUFFICIENT_STORAGE" || !(await evictFor(blobs, size))) throw error;
    }
  }
}

async function verified({ blobs }: Partition, location: string, digest: Digest, size: number, o: TakeBlobOptions): Promise<void> {
  const hasher = new Hasher(algorithmOf(digest));
  try {
    for await (const chunk of withReadSize(blobs.read(location), largeRead)) {
      o.signal?.throwIfAborted();
      hasher.update(chunk);
      o.read?.(chunk.byteLength);
    }
  } catch (error) {
    o.signal?.throwIfAborted();
    if (isRegistryError(error)) throw error;
    // A link to a file on a bad disk, for example.
    throw new RegistryError("UNKNOWN", `the bytes of ${digest} cannot be read: ${errorText(error)}`, {
      cause: error,
    });
  }
  if (hasher.digest() !== digest) throw new RegistryError("DIGEST_INVALID", `the bytes at the source are not ${digest}`);
  if (hasher.size !== size) throw new RegistryError("SIZE_INVALID", `${digest} has ${hasher.size} bytes at the source instead of ${size}`);
}

/** Bytes that are in their place before anything refers to them. */
class TakenBytes implements Staged {
  readonly #in: Partition;
  readonly #location: string;
  readonly #digest: Digest;
  readonly size: number;
  readonly state = {};

  constructor(partition: Partition, location: string, digest: Digest, size: number) {
    this.#in = partition;
    this.#location = location;
    this.#digest = digest;
    this.size = size;
  }

  async append(): Promise<void> {
    throw new RegistryError("UNSUPPORTED", "bytes that were taken from elsewhere are whole");
  }

  async commit(): Promise<string> {
    return this.#location;
  }

  /** A commit of records may have been carried out although it failed: then they are in use. */
  async abort(): Promise<void> {
    const recorded = await this.#in.metadata.get(recordKey.blob(this.#digest));
    if (recorded?.value.location !== this.#location) await this.#in.blobs.delete(this.#location);
  }
}

/**
 * New bytes for a blob whose own are lost. A push cannot do that: it finds the record and makes use of what is not there. When the record has changed
 * meanwhile, somebody else has stored or condemned the blob, and the new bytes are given up.
 */
export async function restoreBlob(
  { blobs, metadata, clock }: Partition,
  { digest, size }: { readonly digest: Digest; readonly size: number },
  source: AsyncIterable<Uint8Array>,
  o?: CallOptions,
): Promise<void> {
  const key = recordKey.blob(digest);
  const lost = await metadata.get(key);
  if (!lost || lost.value.condemned) throw new RegistryError("BLOB_UNKNOWN", `no bytes of ${digest} are recorded: upload them`);
  const hasher = new Hasher(algorithmOf(digest));
  const staged = await blobs.stage(randomBytes(16).toString("hex"));
  try {
    await staged.append(hashed(source, hasher, { digest, size }), {
      ...(o?.signal && { signal: o.signal }),
      makeRoom: () => evictFor(blobs, size),
    });
    if (hasher.size !== size) throw wrongSize(digest, size);
    if (hasher.digest() !== digest) throw digestMismatch(digest);
    const location = await staged.commit(digest);
    const restored = await metadata.commit(
      [{ key, is: "version", version: lost.version }, notOrphaned(location)],
      [{ put: key, value: { location, size, committedAt: clock.now() } }],
    );
    await blobs.delete(restored ? lost.value.location : location);
  } finally {
    await staged.abort();
  }
}

async function* hashed(
  source: AsyncIterable<Uint8Array>,
  hasher: Hasher,
  { digest, size }: { readonly digest: Digest; readonly size: number },
): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    hasher.update(chunk);
    if (hasher.size > size) throw wrongSize(digest, size);
    yield chunk;
  }
}

function wrongSize(digest: Digest, size: number): RegistryError {
  return new RegistryError("SIZE_INVALID", `the source does not give the ${size} bytes of ${digest}`);
}

/** Bytes that were made durable longer ago cannot be recorded any more. Milliseconds. */
export const recordedWithin = 12 * 3_600_000;
/** So nobody can still be about to record them when this is forgotten. */
const remembered = 2 * recordedWithin;

const keyOf = (location: string) => recordKey.lease("leftover", location);

/**
 * That nobody has taken committed bytes for a leftover: a condition of every commit that first records where they are. A collection sees no record of a location that
 * is about to be written, and could not be stopped by one.
 */
export function notOrphaned(location: string): Condition {
  return { key: keyOf(location), is: "absent" };
}

/**
 * From now on nobody can record this location. Whether somebody has done so before is to be looked at afterwards.
 * @param holder who is about to delete it.
 */
export function orphaned(location: string, now: number, holder: string): Change {
  return { put: keyOf(location), value: { holder, expiresAt: now + remembered } };
}

/** For the holder who finds that the bytes are wanted after all: what its record of them is conditional on, and the end of its mark. `undefined` once another has it. */
export async function ownOrphan(
  metadata: MetadataStore,
  location: string,
  holder: string,
): Promise<{ readonly condition: Condition; readonly end: Change } | undefined> {
  const key = keyOf(location);
  const mark = await metadata.get(key);
  if (mark?.value.holder !== holder) return undefined;
  return { condition: { key, is: "version", version: mark.version }, end: { remove: key } };
}

/** A blob that is about to be removed. `condition`: nobody has come to rely on it since it was marked. */
export interface MarkedBlob {
  readonly digest: Digest;
  readonly blob: Omit<RecordTypes["blob"], "condemned">;
  readonly condition: Condition;
}

/** Marks a blob. Claims are looked at afterwards: one that was made before is seen then, one that is made later lifts the mark. `undefined` when it has changed. */
export async function markForDeletion(
  metadata: MetadataStore,
  digest: Digest,
  { value, version }: StoredRecord<"blob">,
): Promise<MarkedBlob | undefined> {
  const key = recordKey.blob(digest);
  if (!value.condemned && !(await metadata.commit([{ key, is: "version", version }], [{ put: key, value: { ...value, condemned: true } }])))
    return undefined;
  const held = await metadata.get(key);
  if (!held?.value.condemned) return undefined;
  const { condemned: _, ...blob } = held.value;
  return { digest, blob, condition: { key, is: "version", version: held.version } };
}

export async function unmarkForDeletion(metadata: MetadataStore, { digest, blob, condition }: MarkedBlob): Promise<void> {
  await metadata.commit([condition], [{ put: recordKey.blob(digest), value: blob }]);
}

/** Whether it is gone: not when somebody has come to rely on it. The record goes first, so that none leads nowhere. */
export async function removeMarkedBlob(
  { metadata, blobs }: Storage,
  { digest, blob, condition }: MarkedBlob,
  changes: readonly Change[] = [],
): Promise<boolean> {
  if (!(await metadata.commit([condition], [...changes, { remove: recordKey.blob(digest) }]))) return false;
  await blobs.delete(blob.location);
  return true;
}
