import { Readable } from "node:stream";
import { localRegistry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { chunksOf } from "../../src/core/content.js";

test("a small blob that is kept in memory keeps no larger buffer with it", async () => {
  const storage = memoryStorage();
  const bytes = Buffer.from("a config");
  // As a client of an object store gives it: a part of all that its connection received.
  const received = Buffer.alloc(64 * 1024);
  bytes.copy(received, 1000);
  const part = received.subarray(1000, 1000 + bytes.length);
  const blobs = { ...storage.blobs, read: () => Readable.from([part]) };
  const registry = localRegistry({ storage: { ...storage, blobs }, name: "release" });
  const digest = digestOf(bytes);
  await registry.putBlob("app", { digest, size: bytes.length }, chunksOf(bytes));
  for (let reads = 0; reads < 2; reads++) {
    const lookup = await registry.getBlob("app", digest);
    const content = lookup.kind === "found" ? lookup.value.content : undefined;
    if (content?.kind !== "bytes") throw new Error(`expected bytes, got ${content?.kind}`);
    expect([Buffer.from(content.bytes), content.bytes.buffer.byteLength]).toEqual([bytes, bytes.length]);
  }
});
