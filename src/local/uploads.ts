import { randomBytes } from "node:crypto";
import type { Staged } from "../core/blob-store.js";
import { type DigestAlgorithm, Hasher } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { parseRepositoryName } from "../core/name.js";
import { recordKey, type UploadRecord } from "../core/records.js";
import type { CallOptions, UploadSession } from "../core/registry.js";
import type { LocalBlobs } from "./blobs.js";
import type { Partition } from "./partition.js";
import { LocalUploadSession } from "./upload-session.js";

/** What this process knows of an upload beside its record: open staged bytes, and a hash that ran along with them. */
export interface OpenUpload {
  readonly staged: Staged;
  /** Absent when bytes came in that it did not see: commit then reads them again. */
  readonly hasher: Hasher | undefined;
}

/** How often expired sessions are looked for, at most; a start of an upload is the occasion. */
const sweepInterval = 10 * 60_000;

export class LocalUploads {
  readonly #in: Partition;
  readonly #blobs: LocalBlobs;
  readonly #timeToLive: number;
  /** Bounded by the number of unexpired sessions: the sweep and the sessions' ends take entries out. */
  readonly #open = new Map<string, OpenUpload>();
  #nextSweep = 0;

  constructor(partition: Partition, blobs: LocalBlobs, timeToLive: number) {
    this.#in = partition;
    this.#blobs = blobs;
    this.#timeToLive = timeToLive;
  }

  async start(repository: string, o?: CallOptions & { algorithm?: DigestAlgorithm }): Promise<UploadSession> {
    parseRepositoryName(repository);
    const { metadata, blobs, clock, name } = this.#in;
    if (clock.now() >= this.#nextSweep) await this.sweep();
    const id = randomBytes(16).toString("hex");
    const staged = await blobs.stage(id);
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
    };
    await metadata.commit([], [{ put: recordKey.upload(name, id), value: record }]);
    this.#open.set(id, { staged, hasher: new Hasher(algorithm) });
    return this.#session(id, record);
  }

  async resume(repository: string, id: string, o?: CallOptions): Promise<UploadSession> {
    // The grammar first: an id becomes a key and, in a file store, a file's name.
    const record = /^[a-f0-9]{32}$/.test(id) ? (await this.#in.metadata.get(recordKey.upload(this.#in.name, id)))?.value : undefined;
    const known =
      record && record.repository === repository && record.principal === o?.caller?.name && isAlive(record, this.#in.clock.now());
    if (!known)
      throw new RegistryError(
        "BLOB_UPLOAD_UNKNOWN",
        "no such upload in this repository: it was committed, cancelled, or has expired; start a new one",
      );
    const session = this.#session(id, record);
    // A crash may have lost the tail of what the record tells of: it is looked for before the client is told an offset. Whoever writes now knows better.
    if (!record.committed && !record.writer && !this.#open.has(id)) await session.settle();
    return session;
  }

  /**
   * The staged bytes of a session, as this process has them open or as the record describes them. Only for whoever holds the right to write: opening
   * may cut off bytes that the record does not know.
   */
  async open(id: string, record: UploadRecord, o: { trusted: boolean }): Promise<OpenUpload> {
    const here = this.#open.get(id);
    if (o.trusted && here?.staged.size === record.offset) return here;
    const staged = await this.#in.blobs.reopen(id, record.state);
    const opened = { staged, hasher: o.trusted && staged.size === 0 ? new Hasher(record.algorithm) : undefined };
    this.#open.set(id, opened);
    return opened;
  }

  forget(id: string): void {
    this.#open.delete(id);
  }

  /** Ends expired sessions and frees their bytes. */
  async sweep(): Promise<void> {
    const { metadata, blobs, clock, name } = this.#in;
    this.#nextSweep = clock.now() + sweepInterval;
    let after: string | undefined;
    do {
      const page = await metadata.page({ kind: "upload", under: [name], limit: 500, ...(after !== undefined && { after }) });
      for (const { key, value, version } of page) {
        const id = key.parts[1];
        after = id;
        if (id === undefined || isAlive(value, clock.now())) continue;
        if (!(await metadata.commit([{ key, is: "version", version }], [{ remove: key }]))) continue;
        this.forget(id);
        if (!value.committed) await blobs.discardStaged(id);
      }
      if (page.length < 500) return;
    } while (after !== undefined);
  }

  #session(id: string, record: UploadRecord): LocalUploadSession {
    return new LocalUploadSession(this.#in, this.#blobs, this, this.#timeToLive, id, record);
  }
}

function isAlive(record: UploadRecord, now: number): boolean {
  return record.expiresAt > now || isBeingWritten(record, now);
}

function isBeingWritten({ writer }: UploadRecord, now: number): boolean {
  return writer !== undefined && writer.expiresAt > now;
}
