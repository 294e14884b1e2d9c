import type { Readable } from "node:stream";

/** What a stream of a blob gives at once unless its consumer asks for more: as much as a client may hold that takes nothing. */
export const smallRead = 64 * 1024;

/** Reads of this size cost a quarter, for each byte, of what reads of `smallPiece` cost. Measured with files. */
export const largeRead = 512 * 1024;

/** A stream whose consumer can say how much it takes at once. */
export interface ReadSizedStream extends Readable {
  /**
   * Says how much to read from here on. What was read together and not given yet is dropped, and read again when it is wanted.
   *
   * @param piece bytes of each chunk.
   * @param atOnce bytes that are read together, in chunks with memory of their own. Default: one piece.
   */
  pace(piece: number, atOnce?: number): void;
}

/** Says how much a consumer takes at once, where the stream can be told. Others give pieces of at most about `smallPiece`. Answers the stream. */
export function withReadSize(source: Readable, piece: number, atOnce?: number): Readable {
  if (isPaced(source)) source.pace(piece, atOnce);
  return source;
}

function isPaced(source: Readable): source is ReadSizedStream {
  return "pace" in source && typeof source.pace === "function";
}
