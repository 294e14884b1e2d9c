import { equal, ok } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { digestOf } from "../core/digest.js";
import { type BlobStoreContract, bytesOf, chunked, newId, sameBytes } from "./blob-fixtures.js";
import { type ContractTest, contractCases, refused } from "./contract.js";

/** Only where the author can make a store that is full. */
export function fullStoreCases(test: ContractTest, create: NonNullable<BlobStoreContract["createFull"]>): void {
  const data = randomBytes(300_000);
  const contract = contractCases(
    test,
    create,
    ({ store }) => store,
    (full) => full,
  );

  contract("a full store is INSUFFICIENT_STORAGE, and the upload goes on when there is space", async ({ store, free }) => {
    const staged = await store.stage(newId());
    await refused(staged.append(chunked(data, 50_000)), "INSUFFICIENT_STORAGE");
    ok(staged.size < data.byteLength);
    await free();
    await staged.append(chunked(data.subarray(staged.size), 50_000));
    sameBytes(await bytesOf(store.read(await staged.commit(digestOf(data)))), data);
  });
  contract("a full store asks for space, and tries again where some was freed", async ({ store, free }) => {
    const staged = await store.stage(newId());
    let asked = 0;
    const makeRoom = async () => {
      asked += 1;
      await free();
      return true;
    };
    await staged.append(chunked(data, 50_000), { makeRoom });
    equal(asked, 1);
    equal(staged.size, data.byteLength);
    sameBytes(await bytesOf(store.read(await staged.commit(digestOf(data)))), data);
  });
  contract("a full store where no space could be freed is INSUFFICIENT_STORAGE", async ({ store }) => {
    const staged = await store.stage(newId());
    await refused(staged.append(chunked(data, 50_000), { makeRoom: async () => false }), "INSUFFICIENT_STORAGE");
    ok(staged.size < data.byteLength);
  });
}
