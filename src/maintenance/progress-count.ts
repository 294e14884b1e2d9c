import { counted } from "./blob-transfer.js";

/** Between two tellings of bytes alone. */
const tellEvery = 4 * 1024 * 1024;

interface Counts {
  readonly items: number;
  readonly done: number;
  readonly bytes: number;
}

/** How far long work has come. It is told with every item that is done, and every few megabytes in between. */
export class ProgressCount {
  readonly #progress: ((counts: Counts) => void) | undefined;
  #items: number;
  #done = 0;
  #bytes = 0;
  #untold = 0;

  constructor(items: number, progress: ((counts: Counts) => void) | undefined) {
    this.#items = items;
    this.#progress = progress;
  }

  get counts(): Counts {
    return { items: this.#items, done: this.#done, bytes: this.#bytes };
  }

  /** One item more has become known. */
  known(): void {
    this.#items++;
  }

  done(): void {
    this.#done++;
    this.tell();
  }

  received(bytes: number): void {
    this.#bytes += bytes;
    this.#untold += bytes;
    if (this.#untold >= tellEvery) this.tell();
  }

  tell(): void {
    this.#untold = 0;
    this.#progress?.(this.counts);
  }

  /** The same bytes, counted; they end when the signal aborts. */
  passing(source: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    return counted(source, (bytes) => this.received(bytes), signal);
  }
}
