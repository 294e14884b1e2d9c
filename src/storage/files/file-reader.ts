import { close, fstat, open, read } from "node:fs";
import { Readable } from "node:stream";
import { storageError } from "../storage-error.js";
import { diskError, isMissing } from "./disk-errors.js";

// Measured: reads of 64 KiB, Node's default for files, cost four times as much for each byte.
const readSize = 512 * 1024;

export interface FileReaderOptions {
  /** Paths to try in turn, asked for again at each attempt: a staged file may be renamed between the call and the first read. */
  paths(): readonly string[];
  /** Inclusive; the whole file when absent. */
  readonly range?: { readonly start: number; readonly end: number };
  /** A file that ends before the range does is an error: a torn blob must not look whole. */
  readonly whole: boolean;
}

/** A file as a stream that opens nothing before it is read, unlike `fs.createReadStream`. */
export class FileReader extends Readable {
  #o: FileReaderOptions;
  #descriptor: number | undefined;
  #position: number;
  /** Exclusive; known once the file is open. */
  #end = 0;
  /** While the system works on the descriptor it must not be closed: the number could be another file's by then. */
  #busy = false;
  #closeWhenIdle: (() => void) | undefined;

  constructor(o: FileReaderOptions) {
    super({ highWaterMark: readSize });
    this.#o = o;
    this.#position = o.range?.start ?? 0;
  }

  override _read(): void {
    if (this.#descriptor === undefined) this.#open(0);
    else this.#readOn(this.#descriptor);
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    const finish = () => {
      const descriptor = this.#descriptor;
      this.#descriptor = undefined;
      if (descriptor === undefined) callback(error);
      else close(descriptor, (closeError) => callback(error ?? closeError));
    };
    if (this.#busy) this.#closeWhenIdle = finish;
    else finish();
  }

  #open(attempt: number): void {
    const path = this.#o.paths()[attempt];
    if (path === undefined) {
      const [first = ""] = this.#o.paths();
      this.destroy(storageError("BLOB_UNKNOWN", first, `no bytes are stored at ${first}`));
      return;
    }
    this.#busy = true;
    open(path, "r", (error, descriptor) => {
      if (error) {
        if (this.#idle()) return;
        if (isMissing(error)) this.#open(attempt + 1);
        else this.#fail(error);
        return;
      }
      this.#descriptor = descriptor;
      fstat(descriptor, (statError, stats) => {
        if (this.#idle()) return;
        if (statError) {
          this.#fail(statError);
          return;
        }
        const { range, whole } = this.#o;
        this.#end = range && whole ? range.end + 1 : Math.min(stats.size, (range?.end ?? Number.POSITIVE_INFINITY) + 1);
        this.#readOn(descriptor);
      });
    });
  }

  #readOn(descriptor: number): void {
    const length = Math.min(readSize, this.#end - this.#position);
    if (length <= 0) {
      this.push(null);
      return;
    }
    const buffer = Buffer.allocUnsafeSlow(length);
    this.#busy = true;
    read(descriptor, buffer, 0, length, this.#position, (error, bytesRead) => {
      if (this.#idle()) return;
      if (error) {
        this.#fail(error);
      } else if (bytesRead === 0) {
        const [path = ""] = this.#o.paths();
        this.destroy(storageError("UNKNOWN", path, `${path} ends at byte ${this.#position}, before the expected ${this.#end}`));
      } else {
        this.#position += bytesRead;
        this.push(bytesRead === length ? buffer : buffer.subarray(0, bytesRead));
      }
    });
  }

  #fail(error: NodeJS.ErrnoException): void {
    const explained = diskError(this.#o.paths()[0] ?? "", error);
    this.destroy(explained instanceof Error ? explained : error);
  }

  /** Ends a system call; true when the stream was destroyed meanwhile and only waits for this. */
  #idle(): boolean {
    this.#busy = false;
    this.#closeWhenIdle?.();
    return this.#closeWhenIdle !== undefined;
  }
}
