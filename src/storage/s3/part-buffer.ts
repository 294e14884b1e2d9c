import type { Reservation } from "./part-memory.js";

/** What a part may have without a reservation: most blobs by number are smaller. */
export const unreserved = 64 * 1024;

/** Gathers the bytes of a part: copies, since a source may use its buffers again. It grows, as most blobs are far smaller than a part. */
export class PartBuffer {
  readonly limit: number;
  /** Bytes at its beginning that are stored elsewhere and not in here: they come by `plug`. */
  #hole: number;
  /** Memory for the whole part; needed beyond `unreserved` bytes. */
  reservation: Reservation | undefined;
  #bytes: Buffer;
  #size: number;

  constructor(limit: number, hole = 0) {
    this.limit = limit;
    this.#hole = hole;
    this.#size = hole;
    this.#bytes = Buffer.allocUnsafeSlow(Math.min(limit, unreserved));
  }

  /** With the hole. */
  get size(): number {
    return this.#size;
  }

  get hole(): number {
    return this.#hole;
  }

  /** Fills the hole, with as many bytes as it has. */
  plug(bytes: Uint8Array): void {
    this.#reserve(this.#hole);
    this.#bytes.set(bytes, 0);
    this.#hole = 0;
  }

  get full(): boolean {
    return this.#size === this.limit;
  }

  /** Takes what fits and answers the rest. */
  fill(chunk: Uint8Array): Uint8Array {
    const taken = Math.min(chunk.byteLength, this.limit - this.#size);
    this.#reserve(this.#size + taken);
    this.#bytes.set(chunk.subarray(0, taken), this.#size);
    this.#size += taken;
    return chunk.subarray(taken);
  }

  /** What is in here: behind the hole, where there is one. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(this.#hole, this.#size);
  }

  #reserve(size: number): void {
    if (size <= this.#bytes.byteLength) return;
    // A fourfold step: few copies on the way to a whole part.
    const larger = Buffer.allocUnsafeSlow(Math.min(this.limit, Math.max(size, this.#bytes.byteLength * 4)));
    this.#bytes.copy(larger, 0, 0, this.#size);
    this.#bytes = larger;
  }
}
