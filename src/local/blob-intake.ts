import type { Staged } from "../core/blob-store.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, Hasher } from "../core/digest.js";
import { isStorageFull, RegistryError } from "../core/errors.js";
import { mediaTypes } from "../core/media-types.js";
import type { Change, Condition } from "../core/metadata-store.js";
import { largePiece, paced } from "../core/pace.js";
import { recordKey } from "../core/records.js";
import { attempts, claimTo, keptBlob, linkChanges, tooManyChanges } from "./blob-claim.js";
import { leftover, notLeftover, recordedWithin } from "./leftovers.js";
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
    const changes = [...linkChanges(this.#in, repository, digest, { size: descriptor.size }), ...(o.more ?? [])];
    // Before the bytes are made durable, for what could not be taken back: the session survives, and can go on when there is room.
    await this.#in.quota?.admit(repository, digest, descriptor.size);
    const claim = o.hashed ? await claimTo(this.#in, repository, digest, {}) : undefined;
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
      const records = theirs ? [condition] : [condition, notLeftover(location)];
      const recorded = metadata.commit([...records, ...right], [...changes, ...(theirs?.pardon ?? [blob])]).catch((error) => {
        if (!isStorageFull(error)) this.#uncertain.add(staged);
        throw error;
      });
      if (!(await recorded)) {
        if (!theirs && (await metadata.get(notLeftover(location).key))) throw tooLate(digest);
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
    await metadata.commit([], [leftover(location, clock.now(), "upload")]);
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
    for await (const chunk of paced(this.#in.blobs.read(location), largePiece)) hasher.update(chunk);
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
