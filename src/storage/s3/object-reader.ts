import { Readable } from "node:stream";
import { pause, systemClock } from "../../core/clock.js";
import { isRegistryError, RegistryError } from "../../core/errors.js";
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

  constructor(source: ObjectSource) {
    super();
    this.#source = source;
    this.#position = source.range?.start ?? 0;
    this.#end = source.range && source.range.end + 1;
  }

  override _read(): void {
    if (this.#body) this.#body.resume();
    else if (!this.#opening) void this.#open();
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
      if (this.#resumes > 0 && !isConflict(error)) void this.#resume(error);
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
    const ended = (error?: unknown) => {
      if (over || this.destroyed) return;
      over = true;
      this.#body = undefined;
      this.#ended(error);
    };
    body.on("data", (chunk: Uint8Array) => {
      if (over || this.destroyed) return;
      this.#resumes = 0;
      this.#position += chunk.byteLength;
      if (!this.push(chunk)) body.pause();
    });
    body.once("end", () => ended());
    body.once("error", ended);
    body.once("close", () => ended(new Error("the transfer ended early")));
  }

  #ended(error: unknown): void {
    if (this.#end === undefined ? error === undefined : this.#position === this.#end && error === undefined) this.push(null);
    // All bytes are there, and yet it failed: a checksum that the SDK compares.
    else if (this.#position === this.#end) this.destroy(this.#source.explain(error) as Error);
    else void this.#resume(error);
  }

  async #resume(error: unknown): Promise<void> {
    const { key, explain } = this.#source;
    if (this.#resumes >= mostResumes || this.#end === undefined || this.#position > this.#end || isRegistryError(error)) {
      const short = new RegistryError("UNKNOWN", `${key} ends at byte ${this.#position}, before the expected ${this.#end}`, {
        cause: error,
      });
      this.destroy((error === undefined ? short : explain(error)) as Error);
      return;
    }
    this.#opening = true;
    try {
      await pause(systemClock, firstPause * 2 ** this.#resumes++, this.#abort.signal);
    } catch {
      return;
    }
    await this.#open();
  }
}
