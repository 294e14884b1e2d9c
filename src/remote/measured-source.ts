import type { Hasher } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";

/**
 * A source on its way into a request, watched: how much of it was handed over, and what ended it. With a length it gives that many bytes and no more, and
 * holds the last chunk back until the source has ended, so that the request is not complete before its source is.
 */
export class MeasuredSource implements AsyncIterable<Uint8Array> {
  /** Bytes handed over. */
  sent = 0;
  /** Whether all there is was handed over. An upstream that answers before has not read it all. */
  finished = false;
  /** What went wrong with the source itself: its own error, or SIZE_INVALID. */
  failure: { readonly error: unknown } | undefined;
  readonly #source: AsyncIterable<Uint8Array>;
  readonly #length: number | undefined;
  readonly #hasher: Hasher | undefined;

  constructor(source: AsyncIterable<Uint8Array>, o: { length?: number | undefined; hasher?: Hasher } = {}) {
    this.#source = source;
    this.#length = o.length;
    this.#hasher = o.hasher;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, void> {
    const limit = this.#length ?? Number.POSITIVE_INFINITY;
    let held: Uint8Array | undefined;
    let received = 0;
    for await (const chunk of this.#watched()) {
      if (chunk.byteLength === 0) continue;
      const missing = limit - received;
      received += chunk.byteLength;
      if (missing === 0) break;
      if (received < limit) {
        yield this.#pass(chunk);
        continue;
      }
      held = chunk.subarray(0, missing);
      if (received > limit) break;
    }
    if (this.#length !== undefined && received !== this.#length) this.failure = { error: wrongLength(this.#length) };
    if (this.failure && received < limit) throw this.failure.error;
    // Before the last chunk, since its arrival may be answered at once.
    this.finished = true;
    if (held) yield this.#pass(held);
  }

  /** Only what the source throws is its failure: a request that ends throws into this generator too. */
  async *#watched(): AsyncGenerator<Uint8Array> {
    const iterator = this.#source[Symbol.asyncIterator]();
    let open = true;
    try {
      for (;;) {
        let next: IteratorResult<Uint8Array>;
        try {
          next = await iterator.next();
        } catch (error) {
          open = false;
          this.failure = { error };
          throw error;
        }
        if (next.done) {
          open = false;
          return;
        }
        yield next.value;
      }
    } finally {
      if (open) await iterator.return?.();
    }
  }

  #pass(chunk: Uint8Array): Uint8Array {
    this.#hasher?.update(chunk);
    this.sent += chunk.byteLength;
    return chunk;
  }
}

export function wrongLength(length: number): RegistryError {
  return new RegistryError("SIZE_INVALID", `the body does not have the ${length} bytes that were announced`);
}
