import { ok } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { Readable } from "node:stream";
import type { BlobStore } from "../core/blob-store.js";
import { digestOf } from "../core/digest.js";

/** As the library makes upload ids: 128 random bits. */
export function newId(): string {
  return randomBytes(16).toString("hex");
}

export async function* chunked(data: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < data.byteLength; at += size) yield data.subarray(at, at + size);
}

export async function* failingAfter(data: Uint8Array, size: number, error: Error): AsyncGenerator<Uint8Array> {
  yield* chunked(data, size);
  throw error;
}

export async function store(blobs: BlobStore, data: Uint8Array, chunkSize = 65_536): Promise<string> {
  const staged = await blobs.stage(newId());
  await staged.append(chunked(data, chunkSize));
  return staged.commit(digestOf(data));
}

export async function bytesOf(stream: Readable): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Without printing megabytes when they differ. */
export function sameBytes(actual: Uint8Array, expected: Uint8Array | undefined): void {
  const same = expected !== undefined && Buffer.compare(actual, expected) === 0;
  ok(same, `the ${actual.byteLength} bytes read are not the ${expected?.byteLength} bytes written`);
}
