import type { Multipart } from "./multipart.js";
import { PartBuffer } from "./part-buffer.js";
import { partSize, partsInFlight } from "./part-size.js";

interface PartUploadsOptions {
  /** The parts there are already. */
  readonly count: number;
  /** The upload to add to; begun at the first part. */
  multipart(): Promise<Multipart>;
  /** A write that finds the store full may be tried again. */
  written<T>(write: () => Promise<T>): Promise<T>;
  /** In the order of the parts, whichever is stored first. */
  stored(part: { readonly etag: string; readonly size: number }): void;
}

/** Sends full parts, some at a time. After a failed part none is started, and none behind it counts. */
export class PartUploads {
  readonly #o: PartUploadsOptions;
  readonly #running = new Set<Promise<void>>();
  readonly #done = new Map<number, { etag: string; size: number }>();
  #started: number;
  #counted: number;
  #failure: { readonly error: unknown } | undefined;

  constructor(o: PartUploadsOptions) {
    this.#o = o;
    this.#started = o.count;
    this.#counted = o.count;
  }

  /** A buffer for the next part, whose first bytes may be stored elsewhere. */
  buffer(hole = 0): PartBuffer {
    return new PartBuffer(partSize(this.#started + 1), hole);
  }

  /** Starts to send a part, when there is a place for it; its memory is released once it is stored. @throws what a part before it failed with. */
  async send(part: PartBuffer): Promise<void> {
    while (this.#running.size >= partsInFlight(part.limit)) await Promise.race(this.#running);
    this.#rethrow();
    const multipart = await this.#o.multipart();
    const number = ++this.#started;
    const run: Promise<void> = this.#put(multipart, number, part)
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => {
        part.reservation?.release();
        this.#running.delete(run);
      });
    this.#running.add(run);
  }

  /** Waits for all that was sent. @throws the first failure. */
  async settle(): Promise<void> {
    await Promise.all(this.#running);
    this.#rethrow();
  }

  async #put(multipart: Multipart, number: number, part: PartBuffer): Promise<void> {
    const { bytes, size } = part;
    const etag = await this.#o.written(() => multipart.put(number, bytes));
    this.#done.set(number, { etag, size });
    for (let next = this.#done.get(this.#counted + 1); next; next = this.#done.get(this.#counted + 1)) {
      this.#done.delete(++this.#counted);
      this.#o.stored(next);
    }
  }

  #rethrow(): void {
    if (this.#failure) throw this.#failure.error;
  }
}
