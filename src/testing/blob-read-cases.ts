import { equal, ok, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { type BlobCase, bytesOf, sameBytes, store } from "./blob-fixtures.js";

/** What is committed is read, and errors come on the stream. */
export function readingCases(contract: BlobCase): void {
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
  contract("a location that is gone fails on the stream, its parts too", async (blobs) => {
    const location = await store(blobs, randomBytes(10));
    await blobs.delete(location);
    const streams = [blobs.read(location), blobs.read(location, { range: { start: 0, end: 4 } })];
    for (const stream of streams) await rejects(bytesOf(stream));
  });
  contract("a location that never was fails on the stream, and its deletion hits nothing", async (blobs) => {
    const data = randomBytes(10);
    const location = await store(blobs, data);
    for (const unknown of ["nowhere", `${location}0`, "../nowhere", ""]) {
      const stream = blobs.read(unknown);
      await rejects(bytesOf(stream));
      // Refused or nothing to do: both will do.
      await blobs.delete(unknown).catch(() => {});
    }
    sameBytes(await bytesOf(blobs.read(location)), data);
    equal((await blobs.list({ limit: 10 })).items.length, 1);
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
  contract("many readers at once each get the whole", async (blobs) => {
    const data = randomBytes(1_000_000);
    const location = await store(blobs, data);
    const reads = Array.from({ length: 16 }, (_, index) => {
      const start = index * 1000;
      return bytesOf(blobs.read(location, { range: { start, end: data.byteLength - 1 } }));
    });
    for (const [index, read] of (await Promise.all(reads)).entries()) sameBytes(read, data.subarray(index * 1000));
  });
  contract("what is asked after close is refused by an error, or answered", async (blobs) => {
    const data = randomBytes(1000);
    const location = await store(blobs, data);
    await blobs.close();
    const answer = await bytesOf(blobs.read(location)).catch((error: unknown) => error);
    if (answer instanceof Error) ok(answer.message.length > 0);
    else sameBytes(answer as Uint8Array, data);
    await blobs.list({ limit: 1 }).catch((error: unknown) => ok(error instanceof Error && error.message.length > 0));
  });
}

/** Only where `capabilities.presign`. */
export function presignCases(contract: BlobCase): void {
  contract("a presigned URL gives the bytes, and parts of them, to whoever has it", async (blobs) => {
    const data = randomBytes(300_000);
    const url = (await blobs.presign?.(await store(blobs, data), { expiresIn: 60 })) ?? "";
    sameBytes(new Uint8Array(await (await fetch(url)).arrayBuffer()), data);
    const part = await fetch(url, { headers: { range: "bytes=1000-1999" } });
    equal(part.status, 206);
    sameBytes(new Uint8Array(await part.arrayBuffer()), data.subarray(1000, 2000));
  });
}
