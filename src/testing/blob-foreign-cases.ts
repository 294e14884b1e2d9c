import { deepEqual, equal, notEqual, ok, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { BlobStore, ForeignBytes } from "../core/blob-store.js";
import { type Digest, digestOf } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { type BlobCase, bytesOf, type ForeignFixture, sameBytes } from "./blob-fixtures.js";

/** A store that takes what another program keeps. */
export function foreignCases(contract: BlobCase, foreign: (data: Uint8Array) => Promise<ForeignFixture>): void {
  const taken = async (blobs: BlobStore, source: ForeignBytes, digest: Digest): Promise<string> => {
    const location = await blobs.copyFrom?.(source, digest);
    ok(location !== undefined, "the store does not take what it should");
    return location;
  };

  contract("foreign bytes are taken, and stay when the other program removes them", async (blobs) => {
    for (const size of [0, 1, 3_000_000]) {
      const data = randomBytes(size);
      const { source, remove } = await foreign(data);
      const location = await taken(blobs, source, digestOf(data));
      sameBytes(await bytesOf(blobs.read(location)), data);
      await remove();
      sameBytes(await bytesOf(blobs.read(location)), data);
      if (size > 1) sameBytes(await bytesOf(blobs.read(location, { range: { start: 7, end: 99 } })), data.subarray(7, 100));
    }
  });
  contract("foreign bytes taken twice have two locations, and deleting one takes nothing from the other program", async (blobs) => {
    const data = randomBytes(100_000);
    const { source, read, remove } = await foreign(data);
    const first = await taken(blobs, source, digestOf(data));
    const second = await taken(blobs, source, digestOf(data));
    notEqual(first, second);
    await blobs.delete(first);
    sameBytes(await bytesOf(blobs.read(second)), data);
    sameBytes(await read(), data);
    await remove();
  });
  contract("foreign bytes are listed like others, as young as they are here, and leave nothing staged", async (blobs) => {
    const data = randomBytes(1000);
    const before = Date.now() - 2000;
    const { source, remove } = await foreign(data);
    const location = await taken(blobs, source, digestOf(data));
    const { items } = await blobs.list({ limit: 10 });
    deepEqual(
      items.map((item) => [item.location, item.size]),
      [[location, 1000]],
    );
    ok((items[0]?.modifiedAt ?? 0) >= before);
    equal((await blobs.listStaged({ limit: 10 })).items.length, 0);
    await remove();
  });
  contract("foreign bytes that are gone are unknown", async (blobs) => {
    const data = randomBytes(10);
    const { source, remove } = await foreign(data);
    await remove();
    await rejects(
      async () => blobs.copyFrom?.(source, digestOf(data)),
      (error) => isRegistryError(error) && error.code === "BLOB_UNKNOWN",
    );
    deepEqual((await blobs.list({ limit: 10 })).items, []);
  });
  contract("foreign bytes of another kind are not taken", async (blobs) => {
    const { source, remove } = await foreign(randomBytes(10));
    const other: ForeignBytes =
      source.kind === "file" ? { kind: "object", bucket: "images", key: "data" } : { kind: "file", path: "/nowhere/data" };
    equal(await blobs.copyFrom?.(other, digestOf(randomBytes(10))), undefined);
    await remove();
  });
}
