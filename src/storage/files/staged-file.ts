import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import type { AppendOptions, Staged, StagedState } from "../../core/blob-store.js";
import { type Clock, systemClock } from "../../core/clock.js";
import type { Digest } from "../../core/digest.js";
import { RegistryError } from "../../core/errors.js";
import { abortable } from "../abortable.js";
import { diskError, isFull, isMissing } from "./disk-errors.js";
import { FileReader } from "./file-reader.js";
import { type Folders, syncFolder } from "./folders.js";
import { newLocation } from "./locations.js";
import { WriteBehind } from "./write-behind.js";

/** An upload as a file. Holds no descriptor between two calls, so that an abandoned one costs nothing but its bytes. */
export class StagedFile implements Staged {
  #id: string;
  #folders: Folders;
  #path: string;
  #size: number;
  #clock: Clock | undefined;
  /** Where the bytes go or went at commit; readers look there when the upload is no longer in its place. */
  #target: string | undefined;
  #committed = false;

  /** @param clock only where it is not the system's. */
  constructor(id: string, folders: Folders, size: number, clock: Clock | undefined) {
    this.#clock = clock;
    this.#id = id;
    this.#folders = folders;
    this.#path = folders.upload(id);
    this.#size = size;
  }

  get size(): number {
    return this.#size;
  }

  get state(): StagedState {
    return { size: this.#size };
  }

  async append(source: AsyncIterable<Uint8Array>, o: AppendOptions = {}): Promise<void> {
    const explain = (error: unknown) => this.#explained(error);
    const file = await open(this.#path, "r+").catch((error: unknown) => Promise.reject(explain(error)));
    try {
      const onWritten = (size: number) => {
        this.#size = size;
        o.progress?.(size);
      };
      const { makeRoom } = o;
      const { reserve } = this.#folders;
      if (makeRoom) await reserve.keep();
      const retry = async (error: unknown) => {
        if (!makeRoom || !isFull(error)) return false;
        await reserve.giveBack();
        const made = await makeRoom();
        // Else it stays given back, for the record of how far this upload came.
        if (made) await reserve.keep();
        return made;
      };
      const writer = new WriteBehind(file, this.#size, { onWritten, explain, retry });
      try {
        for await (const chunk of abortable(source, o.signal)) await writer.write(chunk);
      } catch (error) {
        // What came before the failure is kept, and the failure that came first is the one to tell.
        await writer.drain().catch(() => {});
        throw error;
      }
      await writer.drain();
      await this.#stamp(file);
    } finally {
      await file.close();
    }
  }

  async commit(digest: Digest): Promise<string> {
    const [algorithm = "", hex = ""] = digest.split(":");
    const location = newLocation(algorithm, hex);
    const target = join(this.#folders.dir, location);
    try {
      await allDone([this.#syncBytes(), this.#folders.shard(algorithm, hex)]);
      this.#target = target;
      await rename(this.#path, target);
      this.#committed = true;
      await this.#syncEntries(target);
    } catch (error) {
      throw this.#explained(error);
    }
    return location;
  }

  /** An entry that could not be synced may vanish: as with bytes, a second try would prove nothing. What is left goes, and the upload with it. */
  async #syncEntries(target: string): Promise<void> {
    try {
      await allDone([syncFolder(dirname(target)), syncFolder(this.#folders.uploads)]);
    } catch (error) {
      this.#size = 0;
      await rm(target, { force: true }).catch(() => {});
      throw error;
    }
  }

  async abort(): Promise<void> {
    if (this.#committed) return;
    await rm(this.#path, { force: true }).catch((error: unknown) => Promise.reject(this.#explained(error)));
  }

  read(range: { start: number; end: number }): Readable {
    return new FileReader({ paths: () => (this.#target ? [this.#path, this.#target] : [this.#path]), range, whole: false });
  }

  async #syncBytes(): Promise<void> {
    const file = await open(this.#path, "r+");
    try {
      // A write that failed half way may have left more than `size` says.
      const { size } = await file.stat();
      if (size > this.#size) await file.truncate(this.#size);
      if (size < this.#size) {
        throw new RegistryError(
          "BLOB_UPLOAD_INVALID",
          `the upload ${this.#id} has ${size} bytes on disk instead of ${this.#size}: start it again`,
        );
      }
      // Also where the last bytes came long ago: an old file that no record names yet would be taken for an orphan.
      await this.#stamp(file, this.#clock ?? systemClock);
      await file.sync().catch((error: unknown) => this.#giveUp(file, error));
    } finally {
      await file.close();
    }
  }

  /**
   * After a failed sync the system takes the bytes for written, so that the next one would succeed without them. They are given up: the upload stands at
   * its beginning again.
   */
  async #giveUp(file: FileHandle, error: unknown): Promise<never> {
    this.#size = 0;
    await file.truncate(0).catch(() => rm(this.#path, { force: true }).catch(() => {}));
    throw error;
  }

  /** Sweepers compare a file's time with the clock: where that is not the system's, neither may the file's be. */
  async #stamp(file: FileHandle, clock = this.#clock): Promise<void> {
    if (clock) await file.utimes(clock.now() / 1000, clock.now() / 1000);
  }

  #explained(error: unknown): unknown {
    if (isMissing(error)) {
      return this.#folders.whyLeft() ?? new RegistryError("BLOB_UPLOAD_UNKNOWN", `no upload ${this.#id} is staged`, { cause: error });
    }
    return diskError(this.#folders.dir, error);
  }
}

/** Throws what one of them threw, once all have ended: nothing goes on behind a failure. */
async function allDone(work: readonly Promise<unknown>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(work)) if (outcome.status === "rejected") throw outcome.reason;
}
