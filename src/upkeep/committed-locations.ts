import type { BlobStore } from "../core/blob-store.js";

const pageSize = 1000;

export type CommittedBytes = Awaited<ReturnType<BlobStore["list"]>>["items"][number];

/** All committed locations of a store, in order, page by page. */
export async function* committedLocations(blobs: BlobStore, start?: string): AsyncGenerator<readonly CommittedBytes[]> {
  let after = start;
  do {
    const { items, next } = await blobs.list({ limit: pageSize, ...(after !== undefined && { after }) });
    yield items;
    after = next;
  } while (after !== undefined);
}
