import { Readable } from "node:stream";
import { type Clock, pause } from "../../core/clock.js";
import { isRegistryError, RegistryError } from "../../core/errors.js";
import { DeadlineError } from "../deadline.js";
import { isConflict } from "./s3-errors.js";

/** So often a broken transfer goes on without a byte having come in between. */
const mostResumes = 5;
/** Milliseconds before the first of them; doubled each time. */
const firstPause = 100;

interface OpenedObject {
  readonly body: unknown;
  readonly etag: string;
  readonly length: number | undefined;
  readonly range: string | undefined;
}

interface ObjectSource {
  readonly key: string;
  /** Asks for the object, or for a range of it, on the condition that it is still the one of this ETag. */
  open(o: { range: string | undefined; etag: string | undefined; signal: AbortSignal }): Promise<OpenedObject>;
  /** The error for readers. */
  explain(error: unknown): unknown;
  /** Milliseconds without a byte after which a transfer counts as broken. */
  readonly stall: number;
  readonly clock: Clock;
  /** Inclusive; the whole object when absent. */
  readonly range?: { readonly start: number; readonly end: number };
}

/**
 * An object as a stream that asks for nothing before it is read. The SDK tries a request again, but not a transfer that broke off in the middle: this goes on where it
 * ended. Bytes that are missing at the end are an error: a torn blob must not look whole.
 */
export class ObjectReader extends Readable {
  readonly #source: ObjectSource;
  readonly #abort = new AbortController();
  #body: Readable | undefined;
  #opening = false;
  #position: number;
  /** Exclusive; of a whole object known from the first answer. */
  #end: number | undefined;
  #etag: string | undefined;
  #resumes = 0;
  /** When a byte came, or was asked for, by the clock. */
  #movedAt = 0;

  constructor(source: ObjectSource) {
    super();
    this.#source = source;
    this.#position = source.range?.start ?? 0;
    this.#end = source.range && source.range.end + 1;
  }

  override _read(): void {
    if (this.#body) {
      if (this.#body.isPaused()) this.#movedAt = this.#source.clock.now();
      this.#body.resume();
    } else if (!this.#opening) void this.#open();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#abort.abort();
    // Aborting fails the body as well: nobody is left to hear of it.
    this.#body?.on("error", () => {}).destroy();
    callback(error);
  }

  async #open(): Promise<void> {
    this.#opening = true;
    try {
      const range = this.#wanted();
      const opened = await this.#source.open({ range, etag: this.#etag, signal: this.#abort.signal });
      const body = opened.body instanceof Readable ? opened.body : Readable.from(opened.body as AsyncIterable<Uint8Array>);
      this.#opening = false;
      if (this.destroyed) body.on("error", () => {}).destroy();
      else this.#attach(opened, body, range !== undefined);
    } catch (error) {
      if (this.#resumes > 0 && !isConflict(error) && !(error instanceof DeadlineError)) void this.#resume(error);
      else this.destroy(this.#source.explain(error) as Error);
    }
  }

  /** What to ask for: nothing special for a whole object from its start, which may be empty. */
  #wanted(): string | undefined {
    if (this.#position === 0 && !this.#source.range) return undefined;
    return `bytes=${this.#position}-${this.#end === undefined ? "" : this.#end - 1}`;
  }

  #attach({ etag, length, range }: OpenedObject, body: Readable, ranged: boolean): void {
    const expected = this.#end === undefined ? undefined : this.#end - this.#position;
    const wrongStart = ranged && !range?.startsWith(`bytes ${this.#position}-`);
    if (wrongStart || (expected !== undefined && length !== undefined && length !== expected)) {
      body.on("error", () => {}).destroy();
      this.destroy(
        new RegistryError("UNKNOWN", `${this.#source.key} is answered with ${range ?? `${length} bytes`} instead of the range asked for`),
      );
      return;
    }
    this.#etag ??= etag === "" ? undefined : etag;
    if (length !== undefined) this.#end ??= this.#position + length;
    this.#body = body;
    let over = false;
    const watch = new AbortController();
    const ended = (error?: unknown) => {
      watch.abort();
      if (over || this.destroyed) return;
      over = true;
      this.#body = undefined;
      this.#ended(error);
    };
    body.on("data", (chunk: Uint8Array) => {
      if (over || this.destroyed) return;
      this.#resumes = 0;
      this.#movedAt = this.#source.clock.now();
      this.#position += chunk.byteLength;
      if (!this.push(chunk)) body.pause();
    });
    body.once("end", () => ended());
    body.once("error", ended);
    body.once("close", () => ended(new Error("the transfer ended early")));
    this.#watch(body, AbortSignal.any([watch.signal, this.#abort.signal])).then(
      () => {
        ended(new DeadlineError(`the next byte of ${this.#source.key}`, this.#source.stall));
        body.destroy();
      },
      // The transfer is over.
      () => {},
    );
  }

  /** Ends when bytes were waited for, and none came for too long. While the reader is busy with others nothing is waited for. */
  async #watch(body: Readable, signal: AbortSignal): Promise<void> {
    const { clock, stall } = this.#source;
    this.#movedAt = clock.now();
    for (let left = stall; left > 0; left = body.isPaused() ? stall : this.#movedAt + stall - clock.now()) await clock.sleep(left, signal);
  }

  #ended(error: unknown): void {
    if (this.#end === undefined ? error === undefined : this.#position === this.#end && error === undefined) this.push(null);
    // All bytes are there, and yet it failed: a checksum that the SDK compares.
    else if (this.#position === this.#end) this.destroy(this.#source.explain(error) as Error);
    else void this.#resume(error);
  }

  async #resume(error: unknown): Promise<void> {
    const { key, explain } = this.#source;
    // Who has waited for that long twice has waited enough.
    const stalledAgain = this.#resumes > 0 && error instanceof DeadlineError;
    if (stalledAgain || this.#resumes >= mostResumes || this.#end === undefined || this.#position > this.#end || isRegistryError(error)) {
      const short = new RegistryError("UNKNOWN", `${key} ends at byte ${this.#position}, before the expected ${this.#end}`, {
        cause: error,
      });
      this.destroy((error === undefined ? short : explain(error)) as Error);
      return;
    }
    this.#opening = true;
    try {
      await pause(this.#source.clock, firstPause * 2 ** this.#resumes++, this.#abort.signal);
    } catch {
      return;
    }
    await this.#open();
  }
}
