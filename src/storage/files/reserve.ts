import { open, truncate } from "node:fs/promises";

/** Enough for the records of some evictions; each frees more. */
const reserveSize = 1024 * 1024;

/**
 * Bytes set aside on the disk. To make room on a full one a cache has to write down what it gives up, and the records are on the same disk: without
 * these it could not.
 */
export class Reserve {
  readonly #path: string;
  #kept: Promise<void> | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /** Sets them aside, as far as the disk has them. Not again before they were given back. */
  keep(): Promise<void> {
    // A disk that is full already has nothing to set aside.
    this.#kept ??= this.#write().catch(() => {});
    return this.#kept;
  }

  async giveBack(): Promise<void> {
    await truncate(this.#path).catch(() => {});
    this.#kept = undefined;
  }

  async #write(): Promise<void> {
    const file = await open(this.#path, "a");
    try {
      const { size } = await file.stat();
      if (size < reserveSize) await file.write(Buffer.alloc(reserveSize - size, 0x20));
    } finally {
      await file.close();
    }
  }
}
