import { equal, notEqual, ok, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { StagedState } from "../core/blob-store.js";
import { digestOf } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { type BlobCase, bytesOf, chunked, newId, sameBytes, store } from "./blob-fixtures.js";

/** Uploads that go on later, perhaps in another process. */
export function resumingCases(contract: BlobCase): void {
  const throughJson = (state: StagedState) => JSON.parse(JSON.stringify(state)) as StagedState;

  contract("an upload is reopened by its state, as JSON", async (blobs) => {
    const data = randomBytes(90_000);
    const id = newId();
    const staged = await blobs.stage(id);
    await staged.append(chunked(data.subarray(0, 50_000), 20_000));
    const again = await blobs.reopen(id, throughJson(staged.state));
    equal(again.size, 50_000);
    await again.append(chunked(data.subarray(50_000), 20_000));
    const last = await blobs.reopen(id, throughJson(again.state));
    sameBytes(await bytesOf(blobs.read(await last.commit(digestOf(data)))), data);
  });
  contract("an upload is reopened before its first byte", async (blobs) => {
    const id = newId();
    const { state } = await blobs.stage(id);
    equal((await blobs.reopen(id, throughJson(state))).size, 0);
  });
  contract("reopening with an older state answers no more than it, and goes on from there", async (blobs) => {
    const data = randomBytes(80_000);
    const id = newId();
    const staged = await blobs.stage(id);
    await staged.append(chunked(data.subarray(0, 30_000), 10_000));
    const older = throughJson(staged.state);
    await staged.append(chunked(randomBytes(40_000), 10_000));
    const again = await blobs.reopen(id, older);
    ok(again.size <= 30_000);
    await again.append(chunked(data.subarray(again.size), 10_000));
    sameBytes(await bytesOf(blobs.read(await again.commit(digestOf(data)))), data);
  });
  contract("an upload that is gone cannot be reopened", async (blobs) => {
    const id = newId();
    const staged = await blobs.stage(id);
    await staged.append(chunked(randomBytes(10), 10));
    const state = throughJson(staged.state);
    await staged.abort();
    await rejects(blobs.reopen(id, state), (error) => isRegistryError(error) && error.code === "BLOB_UPLOAD_UNKNOWN");
  });
}

/** How uploads and blobs end. */
export function endingCases(contract: BlobCase): void {
  contract("abort is idempotent", async (blobs) => {
    const staged = await blobs.stage(newId());
    await staged.append(chunked(randomBytes(10), 10));
    await staged.abort();
    await staged.abort();
    equal((await blobs.listStaged({ limit: 10 })).items.length, 0);
  });
  contract("abort after commit does not undo it", async (blobs) => {
    const data = randomBytes(1000);
    const staged = await blobs.stage(newId());
    await staged.append(chunked(data, 100));
    const location = await staged.commit(digestOf(data));
    await staged.abort();
    await staged.abort();
    sameBytes(await bytesOf(blobs.read(location)), data);
  });
  contract("a commit ends the upload", async (blobs) => {
    const id = newId();
    const staged = await blobs.stage(id);
    const { state } = staged;
    await staged.commit(digestOf(new Uint8Array()));
    equal((await blobs.listStaged({ limit: 10 })).items.length, 0);
    await rejects(blobs.reopen(id, state), (error) => isRegistryError(error) && error.code === "BLOB_UPLOAD_UNKNOWN");
  });
  contract("delete is idempotent", async (blobs) => {
    const location = await store(blobs, randomBytes(10));
    await blobs.delete(location);
    await blobs.delete(location);
    equal((await blobs.list({ limit: 10 })).items.length, 0);
  });
  contract("one digest committed twice has two locations, each deleted alone", async (blobs) => {
    const data = randomBytes(5000);
    const first = await store(blobs, data);
    const second = await store(blobs, data);
    notEqual(first, second);
    await blobs.delete(first);
    sameBytes(await bytesOf(blobs.read(second)), data);
  });
  contract("a location is not used again after it was deleted", async (blobs) => {
    const data = randomBytes(100);
    const seen = new Set<string>();
    for (let round = 0; round < 5; round++) {
      const location = await store(blobs, data);
      ok(!seen.has(location));
      seen.add(location);
      await blobs.delete(location);
    }
  });
}

/** Only where `capabilities.readStaged`. */
export function stagedReadCases(contract: BlobCase): void {
  contract("staged bytes are read while they are appended", async (blobs) => {
    const data = randomBytes(300_000);
    const staged = await blobs.stage(newId());
    const reads: Promise<Uint8Array>[] = [];
    const sizes: number[] = [];
    const progress = (size: number) => {
      const stream = staged.read?.({ start: sizes.at(-1) ?? 0, end: size - 1 });
      sizes.push(size);
      if (stream) reads.push(bytesOf(stream));
    };
    await staged.append(chunked(data, 30_000), { progress });
    sameBytes(Buffer.concat(await Promise.all(reads)), data);
  });
  contract("a staged read that has begun outlives the commit", async (blobs) => {
    const data = randomBytes(3_000_000);
    const staged = await blobs.stage(newId());
    await staged.append(chunked(data, 100_000));
    const begun = staged.read?.({ start: 0, end: data.byteLength - 1 });
    const unopened = staged.read?.({ start: 0, end: 99 });
    ok(begun && unopened);
    const chunks = begun[Symbol.asyncIterator]();
    const first = await chunks.next();
    await staged.commit(digestOf(data));
    const rest: Uint8Array[] = [first.value];
    for (let step = await chunks.next(); !step.done; step = await chunks.next()) rest.push(step.value);
    sameBytes(Buffer.concat(rest), data);
    sameBytes(await bytesOf(unopened), data.subarray(0, 100));
  });
}
