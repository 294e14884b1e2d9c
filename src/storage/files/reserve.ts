import { constants, statSync, truncateSync } from "node:fs";
import { open, stat, truncate } from "node:fs/promises";
import { join } from "node:path";

/** Enough for the records of some evictions; each frees more. */
const reserveSize = 1024 * 1024;

/**
 * Bytes set aside on the disk. To evict on a full one a cache has to write what it evicts, and the records are on the same disk: without
 * these it could not.
 */
export class Reserve {
  readonly #path: string;
  #keeping: Promise<void> | undefined;

  /** @param dir the folder of the blobs and, where it is here, of the database. */
  constructor(dir: string) {
    this.#path = pathIn(dir);
  }

  /** Sets them aside, as far as the disk has them. */
  async keep(): Promise<void> {
    // Another process may have given them back.
    const size = await stat(this.#path).then(
      (file) => file.size,
      () => 0,
    );
    if (size >= reserveSize) return;
    // A disk that is full already has nothing to set aside.
    this.#keeping ??= this.#write(size)
      .catch(() => {})
      .finally(() => {
        this.#keeping = undefined;
      });
    await this.#keeping;
  }

  async giveBack(): Promise<void> {
    await truncate(this.#path).catch(() => {});
  }

  /** At a place of their own: processes that do it at the same time do not set aside twice as much. */
  async #write(from: number): Promise<void> {
    const file = await open(this.#path, constants.O_WRONLY | constants.O_CREAT);
    try {
      await file.write(Buffer.alloc(reserveSize - from, 0x20), 0, reserveSize - from, from);
    } finally {
      await file.close();
    }
  }
}

/** For a database that finds the disk full as it is opened. Whether there was anything to give back. */
export function giveBackReserve(dir: string): boolean {
  try {
    if (statSync(pathIn(dir)).size === 0) return false;
    truncateSync(pathIn(dir));
    return true;
  } catch {
    return false;
  }
}

function pathIn(dir: string): string {
  return join(dir, "reserve");
}
