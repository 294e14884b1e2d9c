import { addAbortSignal } from "node:stream";
import type { Awaitable } from "../core/awaitable.js";
import type { BlobStore } from "../core/blob-store.js";
import { type Digest, type DigestAlgorithm, Hasher } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { largeRead, withReadSize } from "../core/read-size.js";

/** What is stored at a location, whatever the records say about it; `unreadable` says nothing about it. */
export type StoredBytes = { readonly size: number; readonly digests: readonly Digest[] } | "missing" | "unreadable";

export interface StoredBytesOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with the size of each chunk that was read; the next one waits for it. */
  readonly read?: (bytes: number) => Awaitable<void>;
}

/**
 * Reads and hashes all that is stored at a location, by each of these algorithms.
 *
 * @throws the signal's reason, and what `read` throws.
 */
export async function storedBytesAt(
  blobs: BlobStore,
  location: string,
  algorithms: readonly DigestAlgorithm[],
  { signal = new AbortController().signal, read }: StoredBytesOptions = {},
): Promise<StoredBytes> {
  const hashers = algorithms.map((algorithm) => new Hasher(algorithm));
  let size = 0;
  try {
    for await (const chunk of chunksAt(blobs, location, signal)) {
      for (const hasher of hashers) hasher.update(chunk);
      size += chunk.byteLength;
      await read?.(chunk.byteLength);
    }
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof ReadFailure)) throw error;
    return isRegistryError(error.cause) && error.cause.code === "BLOB_UNKNOWN" ? "missing" : "unreadable";
  }
  return { size, digests: hashers.map((hasher) => hasher.digest()) };
}

/** The store's failure, as opposed to one of the code that reads. `cause` is what the store threw. */
export class ReadFailure extends Error {}

/**
 * The bytes at a location, in large pieces.
 * @throws ReadFailure when the store cannot read; the signal's reason as its `cause`.
 */
export async function* chunksAt(
  blobs: BlobStore,
  location: string,
  signal: AbortSignal,
  o: { range?: { start: number; end: number } } = {},
): AsyncGenerator<Uint8Array> {
  try {
    signal.throwIfAborted();
    yield* withReadSize(addAbortSignal(signal, blobs.read(location, o)), largeRead);
  } catch (cause) {
    throw new ReadFailure("the store could not read", { cause });
  }
}
