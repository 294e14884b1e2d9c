import type { BlobStore } from "../core/blob-store.js";
import { algorithmOf, type Digest, Hasher } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { chunksAt, ReadFailure } from "../local/stored-bytes.js";
import type { Pace } from "./pace.js";

/** Where a record says that a blob is. */
export interface StoredBlob {
  readonly digest: Digest;
  readonly location: string;
  readonly size: number;
}

/** What is to be said of stored bytes. */
export type Verdict =
  | { readonly kind: "whole" }
  /** Other bytes, too few or too many. */
  | { readonly kind: "corrupt"; readonly why: string }
  /** There is nothing at the location. */
  | { readonly kind: "missing"; readonly why: string }
  /** They could not be read, which says nothing about them. */
  | { readonly kind: "unreadable"; readonly why: string; readonly twice: boolean };

export interface ReadOptions {
  readonly blobs: BlobStore;
  readonly pace: Pace;
  readonly signal: AbortSignal;
  /** Told of every chunk. */
  read(bytes: number): void;
}

/**
 * Reads and hashes a blob, a second time where the first was not right: memory and networks make mistakes too, and only what two reads agree on is held against
 * the stored bytes.
 * @throws the signal's reason, and what `read` throws.
 */
export async function examine(blob: StoredBlob, o: ReadOptions): Promise<Verdict> {
  const first = await readOnce(blob, o);
  if (first.kind === "whole") return first;
  const second = await readOnce(blob, o);
  if (second.kind === first.kind) return second.kind === "unreadable" ? { ...second, twice: true } : second;
  // What could not be read, and then could, is whole. Bytes that are now right and now wrong are not to be relied on.
  if (second.kind === "whole" && first.kind === "unreadable") return second;
  const then = second.kind === "whole" ? "its bytes are right" : second.why;
  return { kind: "unreadable", why: `two reads do not agree: ${first.why}; then ${then}`, twice: false };
}

/** Whether the beginning of a blob can be read: a sign that the store is the right one, and there. */
export async function isReadable({ location, size }: StoredBlob, { blobs, signal }: ReadOptions): Promise<boolean> {
  try {
    for await (const _ of chunksAt(blobs, location, signal, size === 0 ? {} : { range: { start: 0, end: 0 } })) break;
    return true;
  } catch {
    signal.throwIfAborted();
    return false;
  }
}

async function readOnce({ digest, location, size }: StoredBlob, { blobs, pace, signal, read }: ReadOptions): Promise<Verdict> {
  const hasher = new Hasher(algorithmOf(digest));
  try {
    for await (const chunk of chunksAt(blobs, location, signal)) {
      hasher.update(chunk);
      read(chunk.byteLength);
      if (hasher.size > size) return { kind: "corrupt", why: `there are more than its ${size} bytes` };
      await pace.spend(chunk.byteLength, signal);
    }
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof ReadFailure)) throw error;
    const { cause } = error;
    if (isRegistryError(cause) && cause.code === "BLOB_UNKNOWN") return { kind: "missing", why: cause.message };
    return { kind: "unreadable", why: cause instanceof Error ? cause.message : String(cause), twice: false };
  }
  if (hasher.size < size) return { kind: "corrupt", why: `there are ${hasher.size} of its ${size} bytes` };
  const actual = hasher.digest();
  return actual === digest ? { kind: "whole" } : { kind: "corrupt", why: `its bytes are those of ${actual}` };
}
