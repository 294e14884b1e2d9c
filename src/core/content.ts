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
