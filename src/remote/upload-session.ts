import type { Clock } from "../core/clock.js";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { type ErrorCode, isRegistryError, RegistryError } from "../core/errors.js";
import { mediaTypes } from "../core/media-types.js";
import type { UploadSession } from "../core/registry.js";
import { MeasuredSource } from "./measured-source.js";
import type { UpstreamUpload } from "./upstream-upload.js";

/** In milliseconds, of rest: a push interrupted in the evening can go on in the morning, if the upstream keeps it so long. */
const timeToLive = 24 * 3_600_000;
/** In milliseconds. How long a committed session is remembered for a client that did not get the answer. */
const committedMemory = 10 * 60_000;
/**
 * When the upstream is asked how far an upload has come: it is gone (docker-registry says BLOB_UPLOAD_INVALID once bytes were cut off), or the upstream lacks
 * that request, so that nobody can tell where to go on.
 */
const endsUpload: ReadonlySet<ErrorCode> = new Set(["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID", "UNSUPPORTED"]);

export interface RemoteUploadParts {
  readonly id: string;
  readonly upload: UpstreamUpload;
  readonly clock: Clock;
  /** Called when the session has become a blob: it is found for a while, and holds nothing. */
  committed(): void;
  /** Called when the session is over and need not be found any more. */
  forget(): void;
}

/** An upload through this process: the upstream's upload, how far it has come, and who is writing. One object for all requests to a session. */
export class RemoteUploadSession implements UploadSession {
  readonly id: string;
  offset = 0;
  expiresAt: number;
  committed: Digest | undefined;
  readonly #parts: RemoteUploadParts;
  /** Whether `offset` is the upstream's: not after a chunk that broke off. */
  #exact = true;
  #writing = false;
  #over = false;

  constructor(parts: RemoteUploadParts) {
    this.#parts = parts;
    this.id = parts.id;
    this.expiresAt = parts.clock.now() + timeToLive;
  }

  get isAlive(): boolean {
    return this.#writing || this.expiresAt > this.#parts.clock.now();
  }

  async append(source: AsyncIterable<Uint8Array>, o: { start?: number; length?: number; signal?: AbortSignal } = {}): Promise<number> {
    return this.#alone(async () => {
      await this.#settle(o.signal);
      if (o.start !== undefined && o.start !== this.offset) throw this.#outOfOrder(o.start);
      const measured = new MeasuredSource(source, { length: o.length });
      if (o.length === 0) for await (const _ of measured);
      else await this.#send(measured, o);
      this.offset += measured.sent;
      // More came than was announced; what was announced is kept.
      if (measured.failure) throw measured.failure.error;
      return this.offset;
    });
  }

  async commit(text: string): Promise<Descriptor> {
    const digest = parseDigest(text);
    if (this.committed === digest) return this.#descriptor(digest);
    return this.#alone(async () => {
      await this.#settle(undefined);
      try {
        await this.#parts.upload.finish(digest);
      } catch (error) {
        if (hasCode(error, "BLOB_UPLOAD_UNKNOWN")) this.#end();
        if (hasCode(error, "DIGEST_INVALID")) {
          this.#end();
          await this.#parts.upload.abandon();
        }
        throw error;
      }
      this.committed = digest;
      this.#parts.committed();
      return this.#descriptor(digest);
    });
  }

  async cancel(): Promise<void> {
    if (this.#over) return;
    this.#end();
    if (!this.committed) await this.#parts.upload.cancel();
  }

  /** Before a client gets the offset. While somebody writes there is nothing to ask. */
  async settle(signal: AbortSignal | undefined): Promise<void> {
    if (this.#writing || this.committed) return;
    await this.#alone(() => this.#settle(signal));
  }

  async #send(measured: MeasuredSource, { length, signal }: { length?: number; signal?: AbortSignal }): Promise<void> {
    const start = this.offset;
    this.#exact = false;
    try {
      const outcome = await this.#parts.upload.patch(measured, { start, length, signal });
      if (outcome.kind === "out of order") throw this.#resynchronized(start, outcome.offset);
      if (!measured.finished)
        throw new RegistryError("UNAVAILABLE", "the upstream answered before it had the whole body", { retryAfter: 1 });
      this.#exact = true;
    } catch (error) {
      if (hasCode(error, "BLOB_UPLOAD_UNKNOWN")) this.#end();
      else if (!signal?.aborted && !this.#exact) await this.#ask(undefined).catch(() => {});
      throw measured.failure?.error ?? error;
    }
  }

  /** The upstream refused a chunk for its start, and mostly states its offset. */
  #resynchronized(start: number, stated: number | "none or one" | undefined): RegistryError {
    if (stated !== undefined) {
      // Of the two that `0-0` may mean, it is the one that was not sent.
      this.offset = stated === "none or one" ? (start === 0 ? 1 : 0) : stated;
      this.#exact = true;
    }
    return this.#outOfOrder(start);
  }

  /** Asks as late as possible, and again after a failure: right after a cut the upstream may not have taken in all that reached it. */
  async #settle(signal: AbortSignal | undefined): Promise<void> {
    if (this.#exact) return;
    await this.#ask(signal);
    this.#exact = true;
  }

  async #ask(signal: AbortSignal | undefined): Promise<void> {
    try {
      const stated = await this.#parts.upload.status(signal);
      if (typeof stated === "number") this.offset = stated;
    } catch (error) {
      if (!isRegistryError(error) || !endsUpload.has(error.code)) throw error;
      this.#end();
      throw ended(error);
    }
  }

  /** One writer at a time: a second one has to wait, since bytes of both would be mixed. */
  async #alone<T>(work: () => Promise<T>): Promise<T> {
    if (this.#over || this.committed) throw ended();
    if (this.#writing) {
      const message = "another request is writing to this upload: wait for it, or start a new upload";
      throw new RegistryError("UNAVAILABLE", message, { retryAfter: 1 });
    }
    this.#writing = true;
    try {
      return await work();
    } finally {
      this.#writing = false;
      this.expiresAt = this.#parts.clock.now() + (this.committed ? committedMemory : timeToLive);
    }
  }

  #end(): void {
    this.#over = true;
    this.#parts.forget();
  }

  #descriptor(digest: Digest): Descriptor {
    return { mediaType: mediaTypes.octetStream, digest, size: this.offset };
  }

  #outOfOrder(start: number): RegistryError {
    return new RegistryError("RANGE_INVALID", `the upload has ${this.offset} bytes, the chunk starts at ${start}`, {
      detail: { offset: this.offset },
    });
  }
}

function ended(cause?: unknown): RegistryError {
  return new RegistryError("BLOB_UPLOAD_UNKNOWN", "the upload has ended: start a new one", { cause });
}

function hasCode(error: unknown, code: ErrorCode): boolean {
  return isRegistryError(error) && error.code === code;
}
