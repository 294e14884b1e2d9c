/**
 * Content codings of an upstream's bodies (RFC 9110, section 8.4.1): Manifold asks for `identity` alone, and some proxies compress all the same. `codingOf` tells the coding, `decodedBytes`
 * and `decodedStream` undo it.
 */
import { pipeline, type Readable } from "node:stream";
import { promisify } from "node:util";
import { brotliDecompress, createBrotliDecompress, createGunzip, createInflate, gunzip, inflate } from "node:zlib";
import { systemCode } from "../core/system-code.js";

const decoders = {
  gzip: { whole: promisify(gunzip), stream: createGunzip },
  deflate: { whole: promisify(inflate), stream: createInflate },
  br: { whole: promisify(brotliDecompress), stream: createBrotliDecompress },
};

export type Coding = keyof typeof decoders;

const codings: ReadonlyMap<string, Coding> = new Map([
  ["gzip", "gzip"],
  ["x-gzip", "gzip"],
  ["deflate", "deflate"],
  ["br", "br"],
]);

/**
 * The coding that a body is in, where it is one. What storage calls so (`aws-chunked`) and what nobody knows stands for the bytes as they are.
 * @param names the entries of `Content-Encoding`.
 */
export function codingOf(names: readonly string[]): Coding | undefined {
  return names.flatMap((name) => codings.get(name.toLowerCase()) ?? [])[0];
}

/** Undoes the coding of a whole body; a body that is not in it was plain, and is given as it is. Throws `tooLarge()` for more than `limit` bytes. */
export async function decodedBytes(bytes: Uint8Array, coding: Coding, limit: number, tooLarge: () => Error): Promise<Uint8Array> {
  try {
    return await decoders[coding].whole(bytes, { maxOutputLength: limit });
  } catch (error) {
    if (systemCode(error) === "ERR_BUFFER_TOO_LARGE") throw tooLarge();
    // The header is wrong: these are the plain bytes.
    return bytes;
  }
}

/** Undoes the coding of a stream. It fails where the stream fails, or is not in this coding; destroyed, it destroys the stream. */
export function decodedStream(body: Readable, coding: Coding): Readable {
  // The stream that is given reports what fails.
  return pipeline(body, decoders[coding].stream(), () => {});
}
