/** Bytes as the chunks they came in. Copies on the way in and out: neither a source that reuses its buffer nor a reader can change them. */
export class ChunkList {
  #chunks: Uint8Array[] = [];
  /** Where each chunk begins. */
  #starts: number[] = [];
  size = 0;

  push(chunk: Uint8Array): void {
    if (chunk.byteLength === 0) return;
    this.#chunks.push(new Uint8Array(chunk));
    this.#starts.push(this.size);
    this.size += chunk.byteLength;
  }

  truncate(size: number): void {
    while (this.size > size) {
      const chunk = this.#chunks.pop();
      const start = this.#starts.pop();
      if (!chunk || start === undefined) return;
      this.size = start;
      if (start < size) this.push(chunk.subarray(0, size - start));
    }
  }

  /** The bytes from `start` to `end`, inclusive, as far as there are any. */
  *range(start: number, end: number): Generator<Uint8Array> {
    for (let index = this.#indexOf(start); index < this.#chunks.length; index++) {
      const chunk = this.#chunks[index] as Uint8Array;
      const offset = this.#starts[index] as number;
      if (offset > end) return;
      const part = chunk.subarray(Math.max(0, start - offset), end - offset + 1);
      if (part.byteLength > 0) yield new Uint8Array(part);
    }
  }

  #indexOf(position: number): number {
    let low = 0;
    let high = this.#starts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#starts[middle] as number) <= position) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }
}
