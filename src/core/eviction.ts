import type { BlobStore } from "./blob-store.js";

type MakeRoom = (bytes: number) => Promise<boolean>;

const offers = new WeakMap<BlobStore, Set<MakeRoom>>();

/** A cache says that it can give up some of what it keeps in a store. The answer takes the offer back. */
export function offerEviction(blobs: BlobStore, makeRoom: MakeRoom): () => void {
  const all = offers.get(blobs) ?? new Set();
  offers.set(blobs, all.add(makeRoom));
  return () => void all.delete(makeRoom);
}

/** For a store that is full: whether a cache could free something. A push goes before what can be fetched again. */
export async function evictFor(blobs: BlobStore, bytes: number): Promise<boolean> {
  for (const offer of offers.get(blobs) ?? []) if (await offer(bytes)) return true;
  return false;
}
