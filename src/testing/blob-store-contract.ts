import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { BlobStore, BlobStoreCapabilities } from "../core/blob-store.js";
import { digestOf } from "../core/digest.js";
import { type BlobCase, type BlobStoreContract, bytesOf, chunked, failingAfter, newId, sameBytes, store } from "./blob-fixtures.js";
import { foreignCases } from "./blob-foreign-cases.js";
import { blobListingCases } from "./blob-listing-cases.js";
import { presignCases, readingCases } from "./blob-read-cases.js";
import { endingCases, resumingCases, stagedReadCases } from "./blob-upload-cases.js";
import { contractCases } from "./contract.js";
import { fullStoreCases } from "./full-store-cases.js";

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
export function blobStoreContract({ test, create, capabilities, createFull, foreign }: BlobStoreContract): void {
  const can: BlobStoreCapabilities = { readStaged: false, presign: false, ...capabilities };
  const contract: BlobCase = contractCases(
    test,
    create,
    ({ store }) => store,
    ({ store }) => store,
  );

  contract("says what it can do, and has what belongs to it", async (blobs) => {
    deepEqual(blobs.capabilities, can);
    equal(blobs.presign !== undefined, can.presign);
    const staged = await blobs.stage(newId());
    equal(staged.read !== undefined, can.readStaged);
  });
  contract("ready is idempotent", async (blobs) => {
    await blobs.ready();
    await Promise.all([blobs.ready(), blobs.ready()]);
  });
  writingCases(contract);
  readingCases(contract);
  resumingCases(contract);
  endingCases(contract);
  blobListingCases(contract);
  if (can.readStaged) stagedReadCases(contract);
  if (can.presign) presignCases(contract);
  if (createFull) fullStoreCases(test, createFull);
  if (foreign) foreignCases(contract, foreign);
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
  contract("an append whose signal is aborted already takes nothing", async (blobs) => {
    const staged = await blobs.stage(newId());
    const signal = AbortSignal.abort(new Error("too late"));
    await rejects(staged.append(chunked(randomBytes(1000), 100), { signal }), /too late/);
    equal(staged.size, 0);
  });
}
