import type { FileHandle } from "node:fs/promises";

// Two of these for each running append: large enough that a write costs little beside its bytes, small enough for hundreds of appends at once.
const bufferSize = 256 * 1024;

/**
 * Writes at explicit positions while the next bytes are taken in. Bytes are copied into one of two buffers, so that a source may reuse its
 * own; when the disk is idle they are written at once, when it is busy they gather to a larger write.
 */
export class WriteBehind {
  #file: FileHandle;
  #onWritten: (size: number) => void;
  #explain: (error: unknown) => unknown;
  /** Bytes in the file. */
  #size: number;
  #filling: Buffer | undefined;
  #filled = 0;
  #spare: Buffer | undefined;
  #writing: Promise<void> | undefined;
  #failure: { error: unknown } | undefined;
  #retry: (error: unknown) => Promise<boolean>;

  /**
   * @param o.explain turns an error of the disk into the one to throw; errors of the source never pass through here.
   * @param o.retry whether a write that failed so is to be tried again.
   */
  constructor(
    file: FileHandle,
    size: number,
    o: { onWritten: (size: number) => void; explain: (error: unknown) => unknown; retry: (error: unknown) => Promise<boolean> },
  ) {
    this.#file = file;
    this.#size = size;
    this.#onWritten = o.onWritten;
    this.#explain = o.explain;
    this.#retry = o.retry;
  }

  /** Takes a chunk in; waits only while both buffers are in use. */
  async write(chunk: Uint8Array): Promise<void> {
    for (let offset = 0; offset < chunk.byteLength; ) {
      if (this.#filling && this.#filled === this.#filling.byteLength) await this.#writing;
      if (this.#failure) throw this.#failure.error;
      this.#filling ??= Buffer.allocUnsafeSlow(bufferSize);
      const part = chunk.subarray(offset, offset + this.#filling.byteLength - this.#filled);
      this.#filling.set(part, this.#filled);
      this.#filled += part.byteLength;
      offset += part.byteLength;
      if (!this.#writing) this.#start();
    }
  }

  /** Resolves when everything taken in is in the file. Needed also after a failure: until then the file is in use. */
  async drain(): Promise<void> {
    while (this.#writing) await this.#writing;
    if (this.#failure) throw this.#failure.error;
  }

  #start(): void {
    const buffer = this.#filling;
    if (!buffer || this.#filled === 0 || this.#failure) return;
    const length = this.#filled;
    this.#filling = this.#spare;
    this.#filled = 0;
    this.#spare = undefined;
    this.#writing = this.#put(buffer, length)
      .catch((error: unknown) => {
        this.#failure ??= { error: this.#explain(error) };
      })
      .finally(() => {
        this.#spare = buffer;
        this.#writing = undefined;
        this.#start();
      });
  }

  async #put(buffer: Buffer, length: number): Promise<void> {
    for (let offset = 0; offset < length; ) {
      const { bytesWritten } = await this.#written(buffer, offset, length - offset);
      offset += bytesWritten;
      this.#size += bytesWritten;
      this.#onWritten(this.#size);
    }
  }

  async #written(buffer: Buffer, offset: number, length: number): Promise<{ bytesWritten: number }> {
    for (;;) {
      try {
        return await this.#file.write(buffer, offset, length, this.#size);
      } catch (error) {
        if (!(await this.#retry(error))) throw error;
      }
    }
  }
}
