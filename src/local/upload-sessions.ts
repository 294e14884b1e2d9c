import { randomBytes } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import pLimit from "p-limit";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type DigestAlgorithm, Hasher, parseDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { evictFor } from "../core/eviction.js";
import type { RecordItem } from "../core/metadata-store.js";
import { parseRepositoryName } from "../core/name.js";
import { recordKey, type UploadRecord } from "../core/records.js";
import type { CallOptions, UploadSession } from "../core/registry.js";
import { callerKey } from "../core/shares.js";
import { type BlobIntake, digestMismatch } from "./blob-bytes.js";
import { recordPages } from "./every-record.js";
import type { Partition } from "./partition.js";
import {
  endUpload,
  evictedForUnknownSize,
  isAlive,
  LocalUploadSession,
  type OpenUpload,
  type OpenUploads,
  sharerIn,
  type UploadLimits,
  UploadUsage,
} from "./upload-session.js";

/** How often expired sessions are looked for, at most; a start of an upload is the occasion. Where sessions expire sooner, as often as they do. */
const sweepInterval = 10 * 60_000;
/** The same while another session would be refused, and the least: some may have expired, but each look reads all records. */
const fullSweepInterval = 10_000;

/** Sessions that are ended at a time. */
const endedAtOnce = 64;

interface LocalUploadsOptions {
  /** Milliseconds. */
  readonly timeToLive: number;
  readonly limits: UploadLimits;
}

/**
 * The upload sessions of one registry: starts them, finds them again, puts blobs that come in one call, and ends those that nobody goes on with. One session is in
 * `upload-session.ts`; the way of its bytes into the store in `blob-bytes.ts`.
 */
export class LocalUploads implements OpenUploads {
  readonly #in: Partition;
  readonly #intake: BlobIntake;
  readonly #timeToLive: number;
  /** Bounded by the number of unexpired sessions: the sweep and the sessions' ends take entries out. */
  readonly #open = new Map<string, OpenUpload>();
  readonly usage: UploadUsage;
  /** Uploads in one call, and those whose record is being written: a sweep does not find them, and they go on. */
  readonly #unrecorded = new Set<string>();
  #swept = Number.NEGATIVE_INFINITY;
  #sweeping: Promise<void> | undefined;

  constructor(partition: Partition, intake: BlobIntake, o: LocalUploadsOptions) {
    this.#in = partition;
    this.#intake = intake;
    this.#timeToLive = o.timeToLive;
    this.usage = new UploadUsage(o.limits);
  }

  async start(repository: string, o?: CallOptions & { algorithm?: DigestAlgorithm }): Promise<UploadSession> {
    parseRepositoryName(repository);
    const { metadata, blobs, clock, name } = this.#in;
    const sharer = callerKey(o);
    const id = await this.#begin(sharer);
    const staged = await blobs.stage(id).catch((error) => {
      this.#end(id);
      throw error;
    });
    const algorithm = o?.algorithm ?? "sha256";
    const now = clock.now();
    const record: UploadRecord = {
      repository,
      algorithm,
      offset: 0,
      state: staged.state,
      startedAt: now,
      expiresAt: now + this.#timeToLive,
      ...(o?.caller && { principal: o.caller.name }),
      sharer,
    };
    await metadata.commit([], [{ put: recordKey.upload(name, id), value: record }]).catch(async (error) => {
      this.#end(id);
      await staged.abort().catch(() => {});
      throw error;
    });
    this.#unrecorded.delete(id);
    this.#open.set(id, { staged, hasher: new Hasher(algorithm) });
    return this.#session(id, record);
  }

  async resume(repository: string, id: string, o?: CallOptions): Promise<UploadSession> {
    // The grammar first: an id becomes a key and, in a file store, a file's name.
    const record = /^[a-f0-9]{32}$/.test(id) ? (await this.#in.metadata.get(recordKey.upload(this.#in.name, id)))?.value : undefined;
    const known =
      record && record.repository === repository && record.principal === o?.caller?.name && isAlive(record, this.#in.clock.now());
    // What it became may have been deleted since: to say again that it is there would be wrong.
    if (!known || (record.committed && !(await this.#in.metadata.get(recordKey.link(this.#in.name, repository, record.committed)))))
      throw new RegistryError(
        "BLOB_UPLOAD_UNKNOWN",
        "no such upload in this repository: it was committed, cancelled, or has expired; start a new one",
      );
    const session = this.#session(id, record);
    // A crash may have lost the tail of what the record says, so the bytes are looked at before the client is given an offset. Whoever writes now knows better.
    if (!record.committed && !record.writer && !this.#open.has(id)) await session.settle();
    return session;
  }

  /**
   * The staged bytes of a session, as this process has them open or as the record describes them. Only for whoever holds the right to write: opening
   * may cut off bytes that the record does not know.
   */
  async open(id: string, record: UploadRecord, o: { trusted: boolean }): Promise<OpenUpload> {
    const here = this.#open.get(id);
    // By its whole state: another node's append may have moved the bytes without adding any, as with the tail of an upload to an object store.
    if (o.trusted && here?.staged.size === record.offset && isDeepStrictEqual(here.staged.state, record.state)) return here;
    const { blobs } = this.#in;
    const staged = await blobs.reopen(id, record.state).catch((error) => {
      // Lost by a crash in the middle of a commit, whose bytes had gone to their place already: the session begins anew.
      if (isRegistryError(error) && error.code === "BLOB_UPLOAD_UNKNOWN") return blobs.stage(id);
      throw error;
    });
    const opened = { staged, hasher: o.trusted && staged.size === 0 ? new Hasher(record.algorithm) : undefined };
    this.#open.set(id, opened);
    return opened;
  }

  /** A blob in one call, its digest known beforehand. */
  async put(
    repository: string,
    expected: { readonly digest: string; readonly size?: number },
    source: AsyncIterable<Uint8Array>,
    o?: CallOptions,
  ): Promise<Descriptor> {
    parseRepositoryName(repository);
    const digest = parseDigest(expected.digest);
    const { size } = expected;
    if (size !== undefined) await this.#in.quota?.admit(repository, digest, size);
    const hasher = new Hasher(algorithmOf(digest));
    const id = await this.#begin(callerKey(o));
    try {
      const staged = await this.#in.blobs.stage(id);
      try {
        await staged.append(this.#hashed(source, hasher, id, size), {
          ...(o?.signal && { signal: o.signal }),
          makeRoom: () => evictFor(this.#in.blobs, size ?? evictedForUnknownSize),
        });
        if (size !== undefined && hasher.size !== size) throw wrongSize(size);
        if (hasher.digest() !== digest) throw digestMismatch(digest);
        return await this.#intake.adopt(repository, digest, staged, { hashed: true });
      } catch (error) {
        // The first failure is thrown. What cannot be deleted now is left to garbage collection.
        await staged.abort().catch(() => {});
        await this.#intake.abandon(digest, staged).catch(() => {});
        throw error;
      }
    } finally {
      this.#end(id);
    }
  }

  /** Counts an upload that has no record yet. What has expired, or was ended by others, is looked for first. */
  async #begin(sharer: string): Promise<string> {
    const often = Math.max(fullSweepInterval, Math.min(this.#timeToLive, sweepInterval));
    const interval = this.usage.isFullFor(sharer) ? fullSweepInterval : often;
    // Those who come while others are being counted wait as well: after a start nobody is counted yet.
    if (this.#in.clock.elapsed() - this.#swept >= interval) await this.sweep();
    const id = randomBytes(16).toString("hex");
    this.usage.begin(id, sharer);
    this.#unrecorded.add(id);
    return id;
  }

  #end(id: string): void {
    this.#unrecorded.delete(id);
    this.usage.end(id);
  }

  async *#hashed(source: AsyncIterable<Uint8Array>, hasher: Hasher, id: string, size: number | undefined): AsyncGenerator<Uint8Array> {
    for await (const chunk of source) {
      hasher.update(chunk);
      if (size !== undefined && hasher.size > size) throw wrongSize(size);
      this.usage.add(id, chunk.byteLength);
      yield chunk;
    }
  }

  /** What this process has open of a session. */
  forget(id: string): void {
    this.#open.delete(id);
  }

  /** The session is over. */
  ended(id: string): void {
    this.forget(id);
    this.usage.end(id);
  }

  /** Ends expired sessions and frees their bytes. */
  sweep(): Promise<void> {
    this.#sweeping ??= this.#sweep().finally(() => {
      this.#swept = this.#in.clock.elapsed();
      this.#sweeping = undefined;
    });
    return this.#sweeping;
  }

  async #sweep(): Promise<void> {
    const { metadata, clock, name } = this.#in;
    const unseen = new Set(this.usage.ids.filter((id) => !this.#unrecorded.has(id)));
    // Commits that wait together share a sync.
    const limit = pLimit(endedAtOnce);
    for await (const page of recordPages(metadata, "upload", [name])) {
      const expired: RecordItem<"upload">[] = [];
      for (const item of page) {
        const { value } = item;
        const id = idOf(item);
        if (!isAlive(value, clock.now())) {
          expired.push(item);
          continue;
        }
        // Committed ones are only remembered. What is being written is counted by who writes it.
        if (!value.committed && !(value.writer && unseen.has(id))) this.usage.set(id, sharerIn(value), value.offset);
        if (!value.committed) unseen.delete(id);
      }
      await Promise.all(expired.map((item) => limit(() => this.#expire(item))));
    }
    // Ended by other processes.
    for (const id of unseen) this.ended(id);
  }

  /** An expired session, unless somebody has gone on with it. */
  async #expire(item: RecordItem<"upload">): Promise<void> {
    if (await endUpload(this.#in, item)) this.ended(idOf(item));
  }

  #session(id: string, record: UploadRecord): LocalUploadSession {
    return new LocalUploadSession(this.#in, this.#intake, this, this.#timeToLive, id, record);
  }
}

function idOf({ key }: RecordItem<"upload">): string {
  return key.parts[1] ?? "";
}

function wrongSize(size: number): RegistryError {
  return new RegistryError("SIZE_INVALID", `the blob does not have the ${size} bytes that were announced`);
}
