/** Between two tellings of bytes alone. */
const tellEvery = 4 * 1024 * 1024;

/** How far long work has come. */
export class Told {
  readonly #tell: ((progress: { items: number; done: number; bytes: number }) => void) | undefined;
  readonly #items: number;
  #done = 0;
  #bytes = 0;
  #untold = 0;

  constructor(items: number, tell: ((progress: { items: number; done: number; bytes: number }) => void) | undefined) {
    this.#items = items;
    this.#tell = tell;
  }

  get progress(): { items: number; done: number; bytes: number } {
    return { items: this.#items, done: this.#done, bytes: this.#bytes };
  }

  done(): void {
    this.#done++;
    this.#untold = 0;
    this.#tell?.(this.progress);
  }

  received(bytes: number): void {
    this.#bytes += bytes;
    this.#untold += bytes;
    if (this.#untold < tellEvery) return;
    this.#untold = 0;
    this.#tell?.(this.progress);
  }

  /** The same bytes, counted; they end when the signal aborts. */
  async *passing(source: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    for await (const chunk of source) {
      signal?.throwIfAborted();
      this.received(chunk.byteLength);
      yield chunk;
    }
  }
}
