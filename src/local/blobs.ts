import { LRUCache } from "lru-cache";
import type { Staged } from "../core/blob-store.js";
import { collect } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, Hasher, parseDigest } from "../core/digest.js";
import { isStorageFull, RegistryError } from "../core/errors.js";
import { absent, found, type Lookup, type Origin } from "../core/lookup.js";
import { mediaTypes } from "../core/media-types.js";
import type { Change, Condition } from "../core/metadata-store.js";
import { parseRepositoryName } from "../core/name.js";
import { resolveRange } from "../core/range.js";
import { recordKey } from "../core/records.js";
import type { BlobContent, GetBlobOptions, MountOptions } from "../core/registry.js";
import { claimTo, keptBlob, linkChanges } from "./blob-claim.js";
import { leftover, notLeftover, recordedWithin } from "./leftovers.js";
import { useOf } from "./link-use.js";
import type { Partition } from "./partition.js";
import { toldOf, unreadable } from "./read-faults.js";

/** Configs and signatures, mostly: to open a file for one costs several times as much as everything else about it. */
const smallBlob = 16 * 1024;
const keptBytes = 8 * 1024 * 1024;

/** Of the repositories that have a blob, so many are asked about for a mount without source: each may be a question to the host's policy. */
const mountCandidates = 100;

/** A conflict means that someone else's change went through; with so many in a row something other than contention is wrong. */
const attempts = 100;

/** Seconds that a presigned URL is good for: a client asks for it and goes there at once, but may try again. */
const presignedFor = 15 * 60;

/** Blobs as repositories see them: a link is a repository's claim, the bytes are shared by all. */
export class LocalBlobs {
  readonly #in: Partition;
  readonly #committed = new WeakMap<Staged, { readonly location: string; readonly at: number }>();
  /** Whose records may have been written although the store could not say so: a crash can bring them back, and then the bytes must be there. */
  readonly #uncertain = new WeakSet<Staged>();
  /** By location: that is never used again, so what is kept cannot become wrong. Whether it may be seen is asked of the records every time. */
  readonly #small = new LRUCache<string, Uint8Array>({ maxSize: keptBytes, sizeCalculation: ({ byteLength }) => byteLength + 200 });

  constructor(partition: Partition) {
    this.#in = partition;
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
      return found({ descriptor, content: { kind: "bytes", bytes: await this.#smallBytes(location, descriptor.size) } }, located.served);
    }
    const range = o?.range && resolveRange(o.range, descriptor.size);
    const open = () => toldOf(this.#in, location, this.#in.blobs.read(location, range && { range }));
    return found({ descriptor, content: { kind: "stream", open }, ...(range && { range }) }, located.served);
  }

  async #smallBytes(location: string, size: number): Promise<Uint8Array> {
    const kept = this.#small.get(location);
    if (kept) return kept;
    const wrongSize = () => unreadable(this.#in, location, new Error(`it does not have the ${size} bytes that its record tells of`));
    const bytes = await collect(toldOf(this.#in, location, this.#in.blobs.read(location)), size, wrongSize);
    if (bytes.byteLength !== size) throw wrongSize();
    this.#small.set(location, bytes);
    return bytes;
  }

  async #locate(repository: string, digest: Digest, relied: boolean): Promise<Lookup<{ descriptor: Descriptor; location: string }>> {
    const { name, metadata, served, clock } = this.#in;
    const key = recordKey.link(name, repository, digest);
    for (let tries = 0; tries < attempts; tries++) {
      const link = await metadata.get(key);
      if (!link) return absent;
      // A link with an origin is a claim, of a manifest or a mount, that the origin has to confirm, also where others brought the bytes here.
      const { origin, size } = link.value;
      const kept = origin ? undefined : await keptBlob(this.#in, digest);
      if (!origin && !kept) return absent;
      // A blob may be condemned though it is claimed: by whoever was killed before it looked again.
      const pardon = kept && kept.pardon.length > 0 ? kept : undefined;
      const use = useOf(key, link, clock.now(), relied);
      const changes = [...use.changes, ...(pardon?.pardon ?? [])];
      if (changes.length > 0 && !(await metadata.commit([...use.conditions, ...(pardon ? [pardon.condition] : [])], changes))) continue;
      if (origin) return { kind: "linked", descriptor: { mediaType: mediaTypes.octetStream, digest, size }, origin };
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
  async link(repository: string, { digest, size }: Descriptor, origin?: Origin): Promise<void> {
    parseRepositoryName(repository);
    for (let tries = 0; tries < attempts; tries++) {
      const claim = await claimTo(this.#in, repository, digest, { size, ...(origin && { origin }) });
      if (!claim) break;
      if (await this.#in.metadata.commit(claim.conditions, claim.changes)) return;
    }
    throw new RegistryError("BLOB_UNKNOWN", `the bytes of ${digest} are not in this store`);
  }

  /** Links what another repository of this registry has, its origin included. */
  async copyLink(from: string, to: string, digest: Digest): Promise<Descriptor | undefined> {
    parseRepositoryName(to);
    const { name, metadata } = this.#in;
    const source = recordKey.link(name, from, digest);
    for (let tries = 0; tries < attempts; tries++) {
      const link = await metadata.get(source);
      const claim = link && (await claimTo(this.#in, to, digest, link.value));
      if (!claim) return undefined;
      const { size } = link.value;
      const conditions: Condition[] = [{ key: source, is: "present" }, ...claim.conditions];
      if (await metadata.commit(conditions, claim.changes)) return { mediaType: mediaTypes.octetStream, digest, size };
    }
    return undefined;
  }

  /** Links what some repository of this registry has: the first that the caller may read. */
  async copyAnyLink(to: string, digest: Digest, o: MountOptions | undefined): Promise<Descriptor | undefined> {
    const { name, metadata } = this.#in;
    for (const from of await metadata.names({ kind: "linkByDigest", under: [digest, name], limit: mountCandidates })) {
      if (o?.permits && !(await o.permits(from))) continue;
      const copied = await this.copyLink(from, to, digest);
      if (copied) return copied;
    }
    return undefined;
  }

  async delete(repository: string, text: string): Promise<void> {
    const digest = parseDigest(text);
    const { name, metadata } = this.#in;
    const key = recordKey.link(name, repository, digest);
    const removed = await metadata.commit(
      [{ key, is: "present" }],
      [{ remove: key }, { remove: recordKey.linkByDigest(name, digest, repository) }],
    );
    if (!removed) throw new RegistryError("BLOB_UNKNOWN", `${repository} has no blob ${digest}`);
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
    const changes = [...linkChanges(this.#in, repository, digest, descriptor.size), ...(o.more ?? [])];
    // Before the bytes are made durable, for what could not be taken back: the session survives, and can go on when there is room.
    await this.#in.quota?.admit(repository, digest, descriptor.size);
    const claim = o.hashed ? await claimTo(this.#in, repository, digest, { size: descriptor.size }) : undefined;
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
    await metadata.commit([], [leftover(location, clock.now())]);
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
    for await (const chunk of this.#in.blobs.read(location)) hasher.update(chunk);
    return hasher.digest();
  }
}

function tooLate(digest: Digest): RegistryError {
  return new RegistryError("BLOB_UPLOAD_UNKNOWN", `the bytes of ${digest} waited too long to be recorded: start a new upload`);
}

function tooManyChanges(digest: Digest): RegistryError {
  return new RegistryError("UNAVAILABLE", `too many changes to ${digest} at the same time: try again`, { retryAfter: 1 });
}

export function digestMismatch(digest: Digest): RegistryError {
  // Not BLOB_UPLOAD_INVALID, which crane retries.
  return new RegistryError("DIGEST_INVALID", `the uploaded bytes are not ${digest}; the upload is discarded, start a new one`);
}
