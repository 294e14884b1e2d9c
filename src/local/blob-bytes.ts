import { randomBytes } from "node:crypto";
import type { ForeignBytes, Staged } from "../core/blob-store.js";
import { compareAndSet, conflicted } from "../core/compare-and-set.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, Hasher, parseDigest } from "../core/digest.js";
import { errorText, isRegistryError, isStorageFull, RegistryError } from "../core/errors.js";
import { evictFor } from "../core/eviction.js";
import { mediaTypes } from "../core/media-types.js";
import type { Change, Condition, MetadataStore } from "../core/metadata-store.js";
import { parseRepositoryName } from "../core/name.js";
import { largeRead, withReadSize } from "../core/read-size.js";
import { recordKey } from "../core/records.js";
import type { CallOptions } from "../core/registry.js";
import { blobReference, blobReferenceChanges, keptBlob } from "./blob-references.js";
import type { Partition } from "./partition.js";

/**
 * The way of bytes into the store: they are made durable at a location, and only then recorded, in the commit that makes the repository's blob reference.
 * Whatever fails on the way leaves the bytes to another attempt or to garbage collection, never a record without bytes.
 *
 * {@link BlobIntake} takes over what a push or a fill has staged. {@link takeBlob} has the store copy what another program keeps, then takes the same way.
 * {@link restoreBlob} replaces bytes that are lost. Garbage collection deletes bytes that no record names: before it does, it writes a lease on their location
 * ({@link orphaned}), and whoever first records a location does so on the condition that there is none ({@link notOrphaned}).
 */
export class BlobIntake {
  readonly #in: Partition;
  readonly #committed = new WeakMap<Staged, { readonly location: string; readonly at: number }>();
  /** Staged bytes whose records may have been written although the store could not say so: after a crash they may be there, and then the bytes must be too. */
  readonly #uncertain = new WeakSet<Staged>();

  constructor(partition: Partition) {
    this.#in = partition;
  }

  /**
   * Turns staged bytes into a visible blob. They become durable before a record names them. When another upload of the same bytes was faster, its bytes are
   * used and these are deleted.
   *
   * @param o.hashed the caller has hashed every byte on its way in and vouches for the digest. Else the bytes are read again, after they were made
   *   durable, since an object store cannot read what is only staged.
   * @param o.held answers what must hold for the outcome to be recorded. When it throws, the adoption ends and nothing of it is left.
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
    // Before the bytes are made durable, for what could not be taken back: the session survives, and can go on when something was deleted.
    await this.#in.quota?.admit(repository, digest, descriptor.size);
    const reference = o.hashed ? await blobReference(this.#in, repository, digest, {}) : undefined;
    const held = async () => (o.held ? [await o.held()] : []);
    if (reference && (await metadata.commit([...reference.conditions, ...(await held())], [...reference.changes, ...(o.more ?? [])]))) {
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
    return compareAndSet(digest, async () => {
      const theirs = await keptBlob(this.#in, digest);
      const condition: Condition = theirs?.condition ?? { key, is: "absent" };
      const right = await held().catch(async (error) => {
        // The first failure is thrown. What cannot be deleted now is left to garbage collection.
        await this.#giveUp(digest, staged, location).catch(() => {});
        throw error;
      });
      const records = theirs ? [condition] : [condition, notOrphaned(location)];
      const recorded = metadata.commit([...records, ...right], [...changes, ...(theirs?.unmark ?? [blob])]).catch((error) => {
        if (!isStorageFull(error)) this.#uncertain.add(staged);
        throw error;
      });
      if (!(await recorded)) {
        if (!theirs && (await metadata.get(notOrphaned(location).key))) throw tooLate(digest);
        return conflicted;
      }
      this.#committed.delete(staged);
      if (theirs && theirs.blob.location !== location) await blobs.delete(location);
      return descriptor;
    });
  }

  /**
   * Deletes bytes at their location without the right to record them. Whoever has the right now may have put them there as well, since an object store keeps one
   * location for an upload. If they recorded the location before the lease, that is seen here; after it they cannot.
   */
  async #giveUp(digest: Digest, staged: Staged, location: string): Promise<void> {
    if (this.mayBeRecorded(staged)) return;
    const { metadata, blobs, clock } = this.#in;
    await metadata.commit([], [orphaned(location, clock.now(), "upload")]);
    if ((await keptBlob(this.#in, digest))?.blob.location !== location) await blobs.delete(location);
  }

  /** Whether a record may name what a failed `adopt` was given: then only garbage collection can tell that none does. */
  mayBeRecorded(staged: Staged): boolean {
    return this.#uncertain.has(staged);
  }

  /** Deletes what a failed `adopt` has made durable, when nobody tries again. What a record may name is left to garbage collection. Idempotent. */
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

export interface TakeBlobOptions extends CallOptions {
  /** Default: true, all bytes are read back and hashed before anybody can see them. `false`: the caller vouches for digest and size. */
  readonly verify?: boolean;
  /** Called with the size of every chunk that was read to verify. */
  readonly read?: (bytes: number) => void;
}

/**
 * Makes bytes that another program keeps a blob of a repository, by what the store can do itself. Otherwise it is as a push: so are quotas, bytes that are here
 * already, marks for deletion, and pushes of the same blob at the same time.
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
    // Read from where they are now, so that whatever was changed at the source before or meanwhile is seen.
    if (o.verify ?? true) await verified(partition, location, digest, size, o);
    o.signal?.throwIfAborted();
    return await intake.adopt(repository, digest, staged, { hashed: true });
  } catch (error) {
    // The first failure is thrown; bytes that no record names are garbage.
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

/** Bytes that are durable already, before a record names them. */
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

  /** A commit that failed may have been made all the same: then the bytes are in use. */
  async abort(): Promise<void> {
    const recorded = await this.#in.metadata.get(recordKey.blob(this.#digest));
    if (recorded?.value.location !== this.#location) await this.#in.blobs.delete(this.#location);
  }
}

/**
 * New bytes for a blob whose own are lost. A push cannot do that: it finds the record and relies on bytes that are not there. When the record has changed
 * meanwhile, somebody else has stored the blob or marked it for deletion, and the new bytes are deleted.
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
const recordedWithin = 12 * 3_600_000;
/** How long the lease lasts: when it ends, nobody can still be about to record the bytes. Milliseconds. */
const orphanLease = 2 * recordedWithin;

const leaseKey = (location: string) => recordKey.lease("leftover", location);

/**
 * That nobody has taken the bytes at a location for an orphan: a condition of every commit that first records the location. Garbage collection cannot see a record
 * that is about to be written, and could not be stopped by one.
 */
export function notOrphaned(location: string): Condition {
  return { key: leaseKey(location), is: "absent" };
}

/**
 * From now on nobody can record this location. The caller has to look afterwards whether somebody did so before.
 * @param holder who is about to delete the bytes.
 */
export function orphaned(location: string, now: number, holder: string): Change {
  return { put: leaseKey(location), value: { holder, expiresAt: now + orphanLease } };
}

/**
 * For the holder of the lease, when it finds that the bytes are referenced after all: the condition of its record of them, and the end of the lease. `undefined` once
 * another one holds it.
 */
export async function ownOrphan(
  metadata: MetadataStore,
  location: string,
  holder: string,
): Promise<{ readonly condition: Condition; readonly end: Change } | undefined> {
  const key = leaseKey(location);
  const lease = await metadata.get(key);
  if (lease?.value.holder !== holder) return undefined;
  return { condition: { key, is: "version", version: lease.version }, end: { remove: key } };
}
