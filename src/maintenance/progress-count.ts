import { counted } from "./blob-transfer.js";

/** Bytes between two reports while no item is done. */
const reportEvery = 4 * 1024 * 1024;

interface Counts {
  readonly items: number;
  readonly done: number;
  readonly bytes: number;
}

/** How far long work has come. It is reported with every item that is done, and every few megabytes in between. */
export class ProgressCount {
  readonly #progress: ((counts: Counts) => void) | undefined;
  #items: number;
  #done = 0;
  #bytes = 0;
  #unreported = 0;

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
    this.report();
  }

  received(bytes: number): void {
    this.#bytes += bytes;
    this.#unreported += bytes;
    if (this.#unreported >= reportEvery) this.report();
  }

  report(): void {
    this.#unreported = 0;
    this.#progress?.(this.counts);
  }

  /** The same bytes, counted. They end when the signal aborts. */
  passing(source: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    return counted(source, (bytes) => this.received(bytes), signal);
  }
}
