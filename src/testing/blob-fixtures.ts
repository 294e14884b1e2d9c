import { ok } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { Readable } from "node:stream";
import type { BlobStore, BlobStoreCapabilities, ForeignBytes } from "../core/blob-store.js";
import { digestOf } from "../core/digest.js";
import type { ContractTest } from "./contract.js";

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

export type BlobCase = (name: string, run: (blobs: BlobStore) => Promise<void>) => void;

/** A store for one case. */
export interface BlobStoreUnderTest {
  readonly store: BlobStore;
  /** Called after the store was closed. */
  dispose(): Promise<void>;
}

export interface BlobStoreContract {
  /** Registers a case with whatever runs the tests: `test` of `node:test` or vitest, `it` of mocha. */
  readonly test: ContractTest;
  /** An empty store for each case. */
  readonly create: () => Promise<BlobStoreUnderTest>;
  /** What the store says it can do. Default: nothing; what it says it cannot it must not have. */
  readonly capabilities?: Partial<BlobStoreCapabilities>;
  /**
   * A store that takes no byte until `free` has run: then `append` is held to what it says of `makeRoom`. Default: not tested, as a store need not be able to.
   */
  readonly createFull?: () => Promise<BlobStoreUnderTest & { free(): Promise<void> }>;
  /** Bytes that another program keeps, of a kind that the store's `copyFrom` takes. Absent: `copyFrom` is not tested. */
  readonly foreign?: (data: Uint8Array) => Promise<ForeignFixture>;
}

/** What another program keeps, and how it reads and removes that. */
export interface ForeignFixture {
  readonly source: ForeignBytes;
  read(): Promise<Uint8Array>;
  remove(): Promise<void>;
}
