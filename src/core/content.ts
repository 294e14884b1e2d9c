import type { Readable } from "node:stream";
import { RegistryError } from "./errors.js";
import { largeRead, withReadSize } from "./read-size.js";

/**
 * The bytes of a blob on their way out. A stream from a store is opened by `open()` and not before. One from an upstream may hold a response
 * already (its headers were the answer): it gives that up when it is not opened within half a minute, or when the call's signal aborts.
 */
export type Content =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | { readonly kind: "stream"; open(): Readable }
  | { readonly kind: "redirect"; readonly url: string };

/**
 * How much of a blob's end waits until all of it is verified, so that nobody gets a complete answer of wrong bytes. A blob of this size or less is
 * verified before it is answered at all.
 */
export const withheldTail = 64 * 1024;

/** Content as chunks, for consumers inside the process: large ones, since no client keeps them waiting. @throws RegistryError UNSUPPORTED for a redirect. */
export function contentChunks(content: Content): AsyncIterable<Uint8Array> {
  switch (content.kind) {
    case "bytes":
      return chunksOf(content.bytes);
    case "stream":
      return withReadSize(content.open(), largeRead);
    case "redirect":
      throw new RegistryError("UNSUPPORTED", "a redirect can only be handed to an HTTP client");
  }
}

/** One chunk as a source for `putBlob` and `append`. */
export async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  if (bytes.byteLength > 0) yield bytes;
}

/** Reads a source into memory, at most `limit` bytes. @throws the given error when there is more. */
export async function wholeBody(source: AsyncIterable<Uint8Array>, limit: number, tooLarge: () => Error): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of source) {
    size += chunk.byteLength;
    if (size > limit) throw tooLarge();
    chunks.push(chunk);
  }
  const only = chunks.length === 1 ? chunks[0] : undefined;
  return only ?? Buffer.concat(chunks, size);
}

/** Which bytes of a blob are wanted, out of chunks that have all from some byte on. */
export interface WantedBytes {
  /** The first byte wanted. */
  readonly start: number;
  /** Before this byte it ends; `Infinity` for all. */
  readonly end: number;
  /** The byte of the blob with which the first chunk begins. Default: 0. */
  readonly from?: number;
  /** Wanted bytes that come before the chunks. Default: none. */
  readonly before?: readonly Uint8Array[];
}

/**
 * The wanted bytes of a blob as they come, but for the last {@link withheldTail}: those go out once `verify` has returned. What lies outside of the wanted bytes is read
 * as well, since a digest is that of the whole.
 *
 * @param verify called when the last chunk has come. It throws where the bytes are not the blob's.
 * @param passed called with each chunk, for a hasher.
 */
export async function* withholdTail(
  chunks: AsyncIterable<Uint8Array>,
  { start, end, from = 0, before = [] }: WantedBytes,
  verify: () => void,
  passed?: (chunk: Uint8Array) => void,
): AsyncGenerator<Uint8Array> {
  const held = [...before];
  let heldSize = held.reduce((sum, { byteLength }) => sum + byteLength, 0);
  let position = from;
  for await (const chunk of chunks) {
    passed?.(chunk);
    const part = chunk.subarray(Math.max(0, start - position), Math.max(0, end - position));
    position += chunk.byteLength;
    if (part.byteLength === 0) continue;
    held.push(part);
    heldSize += part.byteLength;
    for (let [first] = held; first && heldSize - first.byteLength >= withheldTail; [first] = held) {
      held.shift();
      heldSize -= first.byteLength;
      yield first;
    }
  }
  verify();
  yield* held;
}
