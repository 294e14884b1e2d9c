import { type Page, type PageRequest, pageOf } from "../../core/page.js";
import type { Bucket } from "./bucket.js";
import { blobFolder, isLocation, parseStagedKey, stagedFolder } from "./keys.js";

interface StoredBlob {
  readonly location: string;
  readonly size: number;
  readonly modifiedAt: number;
}

/** A page of committed blobs in ASCII order, as S3 lists keys. */
export async function listBlobs(bucket: Bucket, { after, limit }: PageRequest): Promise<Page<StoredBlob>> {
  const items: StoredBlob[] = [];
  for await (const { key, size, modifiedAt } of bucket.list({ prefix: blobFolder, ...(after && { after }), atOnce: limit + 1 })) {
    if (isLocation(key)) items.push({ location: key, size, modifiedAt });
    if (items.length > limit) break;
  }
  return pageOf(items, limit, (item) => item.location);
}

/** A page of uploads under way, by id. One is as old as what was written of it last. */
export async function listUploads(bucket: Bucket, { after, limit }: PageRequest): Promise<Page<{ id: string; modifiedAt: number }>> {
  const items: { id: string; modifiedAt: number }[] = [];
  // "0" is the character after "/": nothing of that upload sorts as high.
  for await (const { key, modifiedAt } of bucket.list({ prefix: stagedFolder, ...(after && { after: `${stagedFolder}${after}0` }) })) {
    const id = parseStagedKey(key)?.id;
    if (id === undefined) continue;
    const last = items.at(-1);
    if (last?.id === id) last.modifiedAt = Math.max(last.modifiedAt, modifiedAt);
    else items.push({ id, modifiedAt });
    if (items.length > limit + 1) break;
  }
  return pageOf(items.slice(0, limit + 1), limit, (item) => item.id);
}
