import { randomBytes } from "node:crypto";
import type { Readable } from "node:stream";
import { type BlobStore, digestOf } from "oci-manifold/extend";
import { s3BlobStore } from "oci-manifold/storage/s3";
import { type FakeS3, fakeSdk } from "./fake-s3.js";

export const MiB = 2 ** 20;
export const id = () => randomBytes(16).toString("hex");
export const storeOf = (client: FakeS3): BlobStore => s3BlobStore({ client, sdk: fakeSdk, bucket: "images" });

export async function* inChunks(data: Uint8Array, size = 300_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < data.byteLength; at += size) yield data.subarray(at, at + size);
}

export async function bytesOf(stream: Readable): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

export async function stored(blobs: BlobStore, data: Uint8Array): Promise<string> {
  const staged = await blobs.stage(id());
  await staged.append(inChunks(data));
  return staged.commit(digestOf(data));
}

/** Keys that uploads leave behind. */
export const stagedKeys = (client: FakeS3) => [...client.objects.keys()].filter((key) => !key.startsWith("blobs/"));
