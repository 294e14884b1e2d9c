import type { Readable } from "node:stream";

/** How much a stream of a blob gives at once unless its consumer asks for more: as much as may be held for a client that takes nothing. */
export const smallRead = 64 * 1024;

/** Reads of this size cost a quarter, for each byte, of what reads of `smallRead` cost. Measured with files. */
export const largeRead = 512 * 1024;

/** A stream whose consumer can say how much it takes at once. */
export interface ReadSizedStream extends Readable {
  /**
   * Says how much to read from here on. What was read together and not given yet is dropped, and read again when it is wanted.
   *
   * @param piece bytes of each chunk.
   * @param atOnce bytes that are read together, in chunks with memory of their own. Default: one piece.
   */
  readSize(piece: number, atOnce?: number): void;
}

/** Says how much a consumer takes at once, where the stream takes that into account. Others give pieces of at most about `smallRead`. Answers the stream. */
export function withReadSize(source: Readable, piece: number, atOnce?: number): Readable {
  if (isReadSized(source)) source.readSize(piece, atOnce);
  return source;
}

function isReadSized(source: Readable): source is ReadSizedStream {
  return "readSize" in source && typeof source.readSize === "function";
}
