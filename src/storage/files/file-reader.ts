import { close, fstat, open, readv } from "node:fs";
import { Readable } from "node:stream";
import type { RegistryError } from "../../core/errors.js";
import { type ReadSizedStream, smallRead } from "../../core/read-size.js";
import { storageError } from "../storage-error.js";
import { diskError, isMissing } from "./disk-errors.js";

interface FileReaderOptions {
  /** Paths to try in turn, asked for again at each attempt: a staged file may be renamed between the call and the first read. */
  paths(): readonly string[];
  /** Inclusive; the whole file when absent. */
  readonly range?: { readonly start: number; readonly end: number };
  /** A file that ends before the range does is an error: a torn blob must not look whole. */
  readonly whole: boolean;
  /** Why the file may be missing for another reason than that it was never there, or was deleted by us. */
  readonly whyLeft?: () => RegistryError | undefined;
}

/**
 * A file as a stream that opens nothing before it is read, unlike `fs.createReadStream`, and reads nothing before it is asked: while its consumer waits it
 * holds no bytes, except pieces that were read together.
 */
export class FileReader extends Readable implements ReadSizedStream {
  #o: FileReaderOptions;
  #descriptor: number | undefined;
  /** Of the next byte to give. */
  #position: number;
  /** Exclusive; known once the file is open. */
  #end = 0;
  #piece = smallRead;
  #atOnce = smallRead;
  /** Pieces that were read together with one that was given, in order. */
  #pieces: Buffer[] = [];
  /** While the system works on the descriptor it must not be closed: the number could be another file's by then. */
  #busy = false;
  #closeWhenIdle: (() => void) | undefined;

  constructor(o: FileReaderOptions) {
    super({ highWaterMark: 0 });
    this.#o = o;
    this.#position = o.range?.start ?? 0;
  }

  readSize(piece: number, atOnce = piece): void {
    this.#piece = piece;
    this.#atOnce = atOnce;
    // They are read again in the new size.
    this.#pieces = [];
  }

  override _read(): void {
    const next = this.#pieces.shift();
    if (next) this.#give(next);
    else if (this.#descriptor === undefined) this.#open(0);
    else this.#readOn(this.#descriptor);
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#pieces = [];
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
      this.destroy(this.#o.whyLeft?.() ?? storageError("BLOB_UNKNOWN", first, `no bytes are stored at ${first}`));
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
    const buffers = this.#buffers();
    if (buffers.length === 0) {
      this.push(null);
      return;
    }
    this.#busy = true;
    readv(descriptor, buffers, this.#position, (error, bytesRead) => {
      if (this.#idle()) return;
      if (error) {
        this.#fail(error);
      } else if (bytesRead === 0) {
        const [path = ""] = this.#o.paths();
        this.destroy(storageError("UNKNOWN", path, `${path} ends at byte ${this.#position}, before the expected ${this.#end}`));
      } else {
        const [first, ...rest] = filled(buffers, bytesRead);
        this.#pieces = rest;
        if (first) this.#give(first);
      }
    });
  }

  /** Memory of its own for each piece: one that a slow client still waits for keeps no other. */
  #buffers(): Buffer[] {
    const buffers: Buffer[] = [];
    const end = Math.min(this.#end, this.#position + this.#atOnce);
    for (let at = this.#position; at < end; at += this.#piece) buffers.push(Buffer.allocUnsafeSlow(Math.min(this.#piece, end - at)));
    return buffers;
  }

  #give(piece: Buffer): void {
    this.#position += piece.byteLength;
    this.push(piece);
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

/** As much of the buffers as was read into them. */
function filled(buffers: readonly Buffer[], bytesRead: number): Buffer[] {
  const pieces: Buffer[] = [];
  let left = bytesRead;
  for (const buffer of buffers) {
    if (left <= 0) break;
    pieces.push(left < buffer.byteLength ? buffer.subarray(0, left) : buffer);
    left -= buffer.byteLength;
  }
  return pieces;
}
