import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { BlobStore, BlobStoreCapabilities } from "../core/blob-store.js";
import { digestOf } from "../core/digest.js";
import { bytesOf, chunked, failingAfter, newId, sameBytes, store } from "./blob-fixtures.js";
import { blobListingCases } from "./blob-listing-cases.js";
import { endingCases, resumingCases, stagedReadCases } from "./blob-upload-cases.js";

export interface BlobStoreContract {
  /** Registers a case with whatever runs the tests: `test` of vitest, `node:test` or mocha. */
  readonly test: (name: string, run: () => Promise<void>) => void;
  /** An empty store for each case, and how to get rid of it. */
  readonly create: () => Promise<{ store: BlobStore; dispose(): Promise<void> }>;
  /** What the store says it can do; what it says it cannot is not tested. Default: nothing. */
  readonly capabilities?: Partial<BlobStoreCapabilities>;
}

export type BlobCase = (name: string, run: (blobs: BlobStore) => Promise<void>) => void;

/**
 * The promises of a {@link BlobStore}, each as a named case. An adapter that passes can hold a registry's blobs.
 *
 * @example
 * ```ts
 * import { test } from "node:test";
 * import { blobStoreContract, partBlobStore } from "oci-manifold/testing";
 * blobStoreContract({ test, create: async () => ({ store: partBlobStore(), dispose: async () => {} }) });
 * ```
 */
export function blobStoreContract({ test, create, capabilities = {} }: BlobStoreContract): void {
  const contract: BlobCase = (name, run) =>
    test(name, async () => {
      const { store, dispose } = await create();
      try {
        await store.ready();
        await run(store);
      } finally {
        await store.close();
        await dispose();
      }
    });

  contract("says what it can do", async (blobs) => {
    deepEqual(blobs.capabilities, { readStaged: false, presign: false, ...capabilities });
  });
  contract("ready is idempotent", async (blobs) => {
    await blobs.ready();
    await blobs.ready();
  });
  writingCases(contract);
  readingCases(contract);
  resumingCases(contract);
  endingCases(contract);
  blobListingCases(contract);
  if (capabilities.readStaged) stagedReadCases(contract);
}

function writingCases(contract: BlobCase): void {
  contract("appended bytes are committed and read back", async (blobs) => {
    const data = randomBytes(200_000);
    const staged = await blobs.stage(newId());
    equal(staged.size, 0);
    await staged.append(chunked(data.subarray(0, 70_000), 30_000));
    equal(staged.size, 70_000);
    await staged.append(chunked(data.subarray(70_000), 50_000));
    equal(staged.size, 200_000);
    sameBytes(await bytesOf(blobs.read(await staged.commit(digestOf(data)))), data);
  });
  contract("an empty blob is stored and read", async (blobs) => {
    const location = await store(blobs, new Uint8Array());
    equal((await bytesOf(blobs.read(location))).byteLength, 0);
  });
  contract("empty chunks and empty sources change nothing", async (blobs) => {
    const data = randomBytes(10);
    const staged = await blobs.stage(newId());
    await staged.append(chunked(new Uint8Array(), 1));
    await staged.append(
      (async function* () {
        yield new Uint8Array();
        yield data;
        yield new Uint8Array();
      })(),
    );
    sameBytes(await bytesOf(blobs.read(await staged.commit(digestOf(data)))), data);
  });
  contract("a source may use its buffer again", async (blobs) => {
    const staged = await blobs.stage(newId());
    const buffer = new Uint8Array(1000);
    await staged.append(
      (async function* () {
        for (let value = 1; value <= 100; value++) yield buffer.fill(value);
        buffer.fill(0);
      })(),
    );
    const expected = Buffer.concat(Array.from({ length: 100 }, (_, index) => Buffer.alloc(1000, index + 1)));
    sameBytes(await bytesOf(blobs.read(await staged.commit(digestOf(expected)))), expected);
  });
  contract("a blob of 12 MiB arrives in odd chunks", async (blobs) => {
    const data = randomBytes(12 * 2 ** 20 + 7);
    const staged = await blobs.stage(newId());
    await staged.append(chunked(data.subarray(0, 7_000_001), 65_521));
    await staged.append(chunked(data.subarray(7_000_001), 1_234_567));
    sameBytes(await bytesOf(blobs.read(await staged.commit(digestOf(data)))), data);
  });
  contract("progress grows up to the size", async (blobs) => {
    const staged = await blobs.stage(newId());
    const seen: number[] = [];
    await staged.append(chunked(randomBytes(100_000), 10_000), { progress: (size) => seen.push(size) });
    ok(seen.length > 0);
    deepEqual(
      seen,
      [...seen].sort((a, b) => a - b),
    );
    equal(seen.at(-1), 100_000);
  });
  contract("many uploads at once do not mix", async (blobs) => {
    const all = Array.from({ length: 64 }, () => randomBytes(10_000 + Math.floor(Math.random() * 50_000)));
    const locations = await Promise.all(all.map((data) => store(blobs, data, 4_096)));
    equal(new Set(locations).size, all.length);
    for (const [index, location] of locations.entries()) sameBytes(await bytesOf(blobs.read(location)), all[index]);
  });
  contract("a source that fails midway keeps what came before", async (blobs) => {
    const data = randomBytes(60_000);
    const staged = await blobs.stage(newId());
    await rejects(staged.append(failingAfter(data.subarray(0, 40_000), 10_000, new Error("the line broke"))), /the line broke/);
    equal(staged.size, 40_000);
    await staged.append(chunked(data.subarray(40_000), 10_000));
    sameBytes(await bytesOf(blobs.read(await staged.commit(digestOf(data)))), data);
  });
  contract("an aborted signal ends an append with its reason", async (blobs) => {
    const staged = await blobs.stage(newId());
    const controller = new AbortController();
    const endless = (async function* () {
      for (let sent = 0; ; sent++) {
        if (sent === 5) controller.abort(new Error("enough"));
        await new Promise((resolve) => setImmediate(resolve));
        yield new Uint8Array(1000);
      }
    })();
    await rejects(staged.append(endless, { signal: controller.signal }), /enough/);
    ok(staged.size <= 6000);
    await staged.abort();
  });
}

function readingCases(contract: BlobCase): void {
  contract("ranges are inclusive at both ends", async (blobs) => {
    const data = randomBytes(1_500_000);
    const location = await store(blobs, data);
    const last = data.byteLength - 1;
    const ranges = [
      [0, 0],
      [0, last],
      [last, last],
      [1, 2],
      [65_535, 65_536],
      [524_287, 1_048_576],
      [1_000_000, last],
    ] as const;
    for (const [start, end] of ranges)
      sameBytes(await bytesOf(blobs.read(location, { range: { start, end } })), data.subarray(start, end + 1));
  });
  contract("an unknown location fails on the stream", async (blobs) => {
    const location = await store(blobs, randomBytes(10));
    await blobs.delete(location);
    const stream = blobs.read(location);
    await rejects(bytesOf(stream));
  });
  contract("a stream that is never read leaves nothing open", async (blobs) => {
    const location = await store(blobs, randomBytes(10));
    const stream = blobs.read(location);
    await blobs.delete(location);
    stream.destroy();
  });
  contract("a reader may leave early", async (blobs) => {
    const location = await store(blobs, randomBytes(3_000_000));
    for await (const chunk of blobs.read(location)) {
      ok(chunk.byteLength > 0);
      break;
    }
    equal((await bytesOf(blobs.read(location))).byteLength, 3_000_000);
  });
}
