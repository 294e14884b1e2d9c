import { randomBytes } from "node:crypto";
import type { Staged } from "../core/blob-store.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, type Hasher, parseDigest } from "../core/digest.js";
import { isRegistryError, isStorageFull, RegistryError } from "../core/errors.js";
import { evictFor } from "../core/eviction.js";
import { mediaTypes } from "../core/media-types.js";
import type { Change, Condition, RecordItem, Storage } from "../core/metadata-store.js";
import { type RecordKey, recordKey, type UploadRecord } from "../core/records.js";
import type { UploadSession } from "../core/registry.js";
import { callerKey, type Exceeded, type ShareLimits, Shares } from "../core/shares.js";
import { type BlobIntake, digestMismatch } from "./blob-bytes.js";
import type { Partition } from "./partition.js";

/**
 * A writer that is silent for so long can be succeeded by another; one that receives bytes renews its right at half time. Short, since the client of a
 * server that was killed waits for it.
 */
const writerLease = 15_000;
/** What a push whose size nobody knows asks caches that share a full store to evict, in bytes. */
export const evictedForUnknownSize = 256 * 1024 * 1024;
/** How long a committed session is remembered for a client that did not get the answer. */
const committedMemory = 10 * 60_000;

/** The right to write, as long as it lasts: the record as last written by us, with its version. */
interface Writing {
  record: UploadRecord;
  version: number;
  open: OpenUpload;
}

/** What this process knows of an upload beside its record: open staged bytes, and a hash that ran along with them. */
export interface OpenUpload {
  readonly staged: Staged;
  /** Absent when bytes came in that it did not see: commit then reads them again. */
  readonly hasher: Hasher | undefined;
}

/** What the sessions of this process share: the uploads that it has open, and what they take up. */
export interface OpenUploads {
  readonly usage: UploadUsage;
  /** @param o.trusted the bytes are as this process left them, so that a running hash still counts. */
  open(id: string, record: UploadRecord, o: { trusted: boolean }): Promise<OpenUpload>;
  /** What is open is not what the store has: it is opened anew. */
  forget(id: string): void;
  ended(id: string): void;
}

/**
 * One upload session, as one request has it. Who writes to it holds the writer's right: a token in the session's record, renewed while bytes arrive. Each change is
 * conditional on the record's version, so whoever has lost the right finds out before anything is written under it.
 *
 * Below are the limits that all sessions of a registry share ({@link UploadUsage}), and the end of a session that has expired ({@link endUpload}).
 */
export class LocalUploadSession implements UploadSession {
  readonly id: string;
  offset: number;
  expiresAt: number;
  committed: Digest | undefined;
  readonly #in: Partition;
  readonly #intake: BlobIntake;
  readonly #uploads: OpenUploads;
  readonly #timeToLive: number;
  readonly #repository: string;
  readonly #key: RecordKey<"upload">;

  constructor(partition: Partition, intake: BlobIntake, uploads: OpenUploads, timeToLive: number, id: string, record: UploadRecord) {
    this.#in = partition;
    this.#intake = intake;
    this.#uploads = uploads;
    this.#timeToLive = timeToLive;
    this.#repository = record.repository;
    this.#key = recordKey.upload(partition.name, id);
    this.id = id;
    this.offset = record.offset;
    this.expiresAt = record.expiresAt;
    this.committed = record.committed;
  }

  async append(source: AsyncIterable<Uint8Array>, o: { start?: number; length?: number; signal?: AbortSignal } = {}): Promise<number> {
    const writing = await this.#acquire();
    if (o.start !== undefined && o.start !== this.offset) {
      await this.#release(writing);
      throw wrongOffset(this.offset, `the chunk starts at ${o.start}`);
    }
    try {
      await writing.open.staged.append(this.#watched(source, writing, o.length), {
        ...(o.signal && { signal: o.signal }),
        makeRoom: () => evictFor(this.#in.blobs, evictedForUnknownSize),
      });
    } catch (error) {
      // What arrived is kept, so that the client can go on from there. What was hashed may not be what was written: commit reads the bytes again.
      this.#uploads.forget(this.id);
      await this.#release(writing);
      throw error;
    }
    await this.#release(writing);
    return this.offset;
  }

  /** Finds out how much of the upload is really there. Leaves it alone when someone is writing to it. */
  async settle(): Promise<void> {
    try {
      await this.#release(await this.#acquire());
    } catch (error) {
      if (!isRegistryError(error) || error.code !== "UNAVAILABLE") throw error;
    }
  }

  async commit(text: string): Promise<Descriptor> {
    const digest = parseDigest(text);
    const done = (await this.#in.metadata.get(this.#key))?.value.committed;
    if (done === digest) return { mediaType: mediaTypes.octetStream, digest, size: this.offset };
    const writing = await this.#acquire();
    const { staged, hasher } = writing.open;
    if (staged.size < writing.record.offset) {
      await this.#release(writing);
      throw wrongOffset(this.offset, `of the ${writing.record.offset} bytes that had arrived a crash has lost some`);
    }
    const watched = hasher?.size === staged.size && hasher.algorithm === algorithmOf(digest);
    if (watched && hasher.digest() !== digest) {
      await this.cancel();
      throw digestMismatch(digest);
    }
    const remembered: Change = {
      put: this.#key,
      value: {
        ...withoutWriter(writing.record),
        state: {},
        offset: staged.size,
        committed: digest,
        expiresAt: this.#in.clock.now() + committedMemory,
      },
    };
    const descriptor = await this.#whileHeld(writing, (held) =>
      this.#intake.adopt(this.#repository, digest, staged, { hashed: watched, more: [remembered], held }),
    ).catch(async (error) => {
      if (isRegistryError(error) && error.code === "DIGEST_INVALID") await this.cancel();
      // Anything else may pass: the client can try again at once, from where the store still has the bytes.
      else await this.#giveBack(writing);
      throw error;
    });
    this.#uploads.ended(this.id);
    this.committed = digest;
    return descriptor;
  }

  async cancel(): Promise<void> {
    const stored = await this.#in.metadata.get(this.#key);
    if (!stored) return;
    await this.#in.metadata.commit([], [{ remove: this.#key }]);
    this.#uploads.ended(this.id);
    if (!stored.value.committed) await this.#in.blobs.discardStaged(this.id);
  }

  /** Hashes and counts the bytes on their way, and keeps the writer's right alive. */
  async *#watched(source: AsyncIterable<Uint8Array>, writing: Writing, length: number | undefined): AsyncGenerator<Uint8Array> {
    const { hasher } = writing.open;
    let received = 0;
    for await (const chunk of source) {
      received += chunk.byteLength;
      if (length !== undefined && received > length) throw wrongLength(length);
      if (!this.#uploads.usage.has(this.id)) throw ended();
      await this.#renew(writing);
      this.#uploads.usage.add(this.id, chunk.byteLength);
      hasher?.update(chunk);
      yield chunk;
    }
    if (length !== undefined && received !== length) throw wrongLength(length);
  }

  async #acquire(): Promise<Writing> {
    const { metadata, clock } = this.#in;
    const stored = await metadata.get(this.#key);
    if (!stored || stored.value.committed) throw ended();
    const now = clock.now();
    const before = stored.value.writer;
    if (before && before.expiresAt > now) throw busy();
    const writer = { token: randomBytes(8).toString("hex"), expiresAt: now + writerLease };
    const held = await this.#write({ ...stored.value, writer }, stored.version);
    // Opened only now: it cuts off what the record does not know, which would be another writer's bytes. One who was silent may still have bytes on the
    // way to the disk, so what follows him is read again at commit.
    const open = await this.#uploads.open(this.id, held.record, { trusted: before === undefined });
    this.offset = open.staged.size;
    if (!this.#uploads.usage.has(this.id)) this.#uploads.usage.set(this.id, sharerIn(held.record), this.offset);
    return { open, ...held };
  }

  /** Also after the time is over: as long as nobody else took the right, it is still ours. */
  async #renew(writing: Writing): Promise<void> {
    const { writer } = writing.record;
    const now = this.#in.clock.now();
    if (!writer || writer.expiresAt - now > writerLease / 2) return;
    const renewed = { ...writing.record, writer: { ...writer, expiresAt: now + writerLease }, expiresAt: now + this.#timeToLive };
    Object.assign(writing, await this.#write(renewed, writing.version));
  }

  /**
   * Keeps the right while the store takes its time: an fsync of a large blob, a multipart upload that is put together.
   * @param work is given the condition under which its outcome may be recorded; to ask for it throws when the right is another's by now.
   */
  async #whileHeld<T>(writing: Writing, work: (held: () => Promise<Condition>) => Promise<T>): Promise<T> {
    const { clock, metadata } = this.#in;
    const done = new AbortController();
    let renewing: Promise<void> = Promise.resolve();
    const renew = async (): Promise<void> => {
      await clock.sleep(writerLease / 3, done.signal);
      renewing = this.#renew(writing);
      await renewing;
      return renew();
    };
    // A right that was lost shows when it is needed.
    renew().catch(() => {});
    try {
      return await work(async () => {
        await renewing.catch(() => {});
        if ((await metadata.get(this.#key))?.version !== writing.version) throw await this.#lost();
        return { key: this.#key, is: "version", version: writing.version };
      });
    } finally {
      done.abort();
      await renewing.catch(() => {});
    }
  }

  async #release({ record, version, open }: Writing): Promise<void> {
    this.expiresAt = this.#in.clock.now() + this.#timeToLive;
    this.offset = open.staged.size;
    const { size: offset, state } = open.staged;
    if (this.#uploads.usage.has(this.id)) this.#uploads.usage.set(this.id, sharerIn(record), offset);
    const value = { ...withoutWriter(record), offset, state, expiresAt: this.expiresAt };
    const written = await this.#in.metadata.commit([{ key: this.#key, is: "version", version }], [{ put: this.#key, value }]);
    if (!written) throw await this.#lost();
  }

  /** After a failed commit: the session as it was, or as much of it as the store has not given up, if that can still be written. */
  async #giveBack({ record, version, open: { staged } }: Writing): Promise<void> {
    const lost = staged.size < this.offset;
    if (lost) {
      this.#uploads.forget(this.id);
      this.#uploads.usage.set(this.id, sharerIn(record), staged.size);
      this.offset = staged.size;
    }
    const change = { put: this.#key, value: { ...withoutWriter(record), ...(lost && { offset: staged.size, state: staged.state }) } };
    await this.#in.metadata.commit([{ key: this.#key, is: "version", version }], [change]).catch(() => false);
  }

  /** Why what we held is no longer ours. */
  async #lost(): Promise<RegistryError> {
    const now = (await this.#in.metadata.get(this.#key))?.value;
    return now && !now.committed ? busy() : ended();
  }

  async #write(record: UploadRecord, version: number): Promise<{ record: UploadRecord; version: number }> {
    const { metadata } = this.#in;
    const written = await metadata.commit([{ key: this.#key, is: "version", version }], [{ put: this.#key, value: record }]);
    const now = written ? await metadata.get(this.#key) : undefined;
    if (!now || now.value.writer?.token !== record.writer?.token) throw await this.#lost();
    return { record, version: now.version };
  }
}

function withoutWriter(record: UploadRecord): UploadRecord {
  const { writer: _, ...rest } = record;
  return rest;
}

function wrongOffset(offset: number, why: string): RegistryError {
  return new RegistryError("RANGE_INVALID", `the upload has ${offset} bytes: ${why}`, { detail: { offset } });
}

function ended(): RegistryError {
  return new RegistryError("BLOB_UPLOAD_UNKNOWN", "the upload has ended: start a new one");
}

function busy(): RegistryError {
  return new RegistryError("UNAVAILABLE", "another request is writing to this upload: wait for it, or start a new upload", {
    retryAfter: 1,
  });
}

function wrongLength(length: number): RegistryError {
  return new RegistryError("SIZE_INVALID", `the body does not have the ${length} bytes that were announced`);
}

/** What uploads in progress may take up, of all callers together and of each. */
export interface UploadLimits {
  readonly sessions: ShareLimits;
  /** Staged bytes. */
  readonly bytes: ShareLimits;
}

/** Seconds. podman tries again on 429 and on nothing else; by then others may have finished. */
const retryAfter = 30;

interface Use {
  readonly sharer: string;
  bytes: number;
}

/**
 * How much of its limits the uploads of one registry take up. Counted in memory, so that no push reads other uploads' records; what other processes hold
 * becomes known with each sweep.
 */
export class UploadUsage {
  readonly #limits: UploadLimits;
  readonly #uses = new Map<string, Use>();
  readonly #sessions: Shares;
  readonly #bytes: Shares;

  constructor(limits: UploadLimits) {
    this.#limits = limits;
    this.#sessions = new Shares(limits.sessions);
    this.#bytes = new Shares(limits.bytes);
  }

  /** Whether another upload of this one would be refused. */
  isFullFor(sharer: string): boolean {
    return this.#sessions.exceededBy(sharer, 1) !== undefined;
  }

  /**
   * Counts an upload before anything is done for it.
   * @throws RegistryError TOOMANYREQUESTS when there are as many uploads as there may be, of all or of this one.
   */
  begin(id: string, sharer: string): void {
    const exceeded = this.#sessions.exceededBy(sharer, 1);
    if (exceeded) {
      throw new RegistryError(
        "TOOMANYREQUESTS",
        `${this.#limits.sessions[exceeded]} uploads ${ofWhom(exceeded)} are in progress, which is the limit: finish or cancel some, or try again later`,
        { retryAfter },
      );
    }
    this.set(id, sharer, 0);
  }

  /** @throws RegistryError INSUFFICIENT_STORAGE when the bytes would exceed the limit, of all or of this one. */
  add(id: string, bytes: number): void {
    const use = this.#uses.get(id);
    if (!use) return;
    const exceeded = this.#bytes.exceededBy(use.sharer, bytes);
    if (exceeded) {
      const held = exceeded === "all" ? this.#bytes.total : this.#bytes.of(use.sharer);
      throw new RegistryError(
        "INSUFFICIENT_STORAGE",
        `uploads ${ofWhom(exceeded)} hold ${held} bytes and may hold ${this.#limits.bytes[exceeded]}: finish or cancel some, then go on with this one`,
      );
    }
    this.set(id, use.sharer, use.bytes + bytes);
  }

  /** What is known for sure: from a record or from the store. */
  set(id: string, sharer: string, bytes: number): void {
    const before = this.#uses.get(id);
    const use = before ?? { sharer, bytes: 0 };
    if (!before) {
      this.#uses.set(id, use);
      this.#sessions.add(sharer, 1);
    }
    this.#bytes.add(use.sharer, bytes - use.bytes);
    use.bytes = bytes;
  }

  end(id: string): void {
    const use = this.#uses.get(id);
    if (!use) return;
    this.#uses.delete(id);
    this.#sessions.add(use.sharer, -1);
    this.#bytes.add(use.sharer, -use.bytes);
  }

  has(id: string): boolean {
    return this.#uses.has(id);
  }

  get ids(): readonly string[] {
    return [...this.#uses.keys()];
  }
}

function ofWhom(exceeded: Exceeded): string {
  return exceeded === "each" ? "of one caller" : "of all callers";
}

/** Who an upload counts for. */
export function sharerIn({ sharer, principal }: UploadRecord): string {
  return sharer ?? callerKey(principal === undefined ? undefined : { caller: { name: principal } });
}

/** Whether somebody may still go on with a session, or is at it. */
export function isAlive(record: UploadRecord, now: number): boolean {
  return record.expiresAt > now || (record.writer !== undefined && record.writer.expiresAt > now);
}

/** Ends a session that has expired and frees its bytes. False when somebody has gone on with it meanwhile. */
export async function endUpload({ metadata, blobs }: Storage, { key, value, version }: RecordItem<"upload">): Promise<boolean> {
  // Committed ones are only remembered.
  const free = async () => {
    if (!value.committed) await blobs.discardStaged(key.parts[1] ?? "");
  };
  const removed = () => metadata.commit([{ key, is: "version", version }], [{ remove: key }]);
  // On a full disk the record can be removed once the bytes are deleted.
  const removedAfter = async (error: unknown) => {
    if (!isStorageFull(error)) throw error;
    await free();
    return removed();
  };
  if (!(await removed().catch(removedAfter))) return false;
  await free();
  return true;
}
