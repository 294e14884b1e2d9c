import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { isRegistryError } from "../core/errors.js";
import { allPages } from "../core/page.js";
import { type BlobCase, chunked, newId, store } from "./blob-fixtures.js";

/** What collectors and sweepers count on. */
export function blobListingCases(contract: BlobCase): void {
  contract("an empty store lists nothing", async (blobs) => {
    deepEqual(await blobs.list({ limit: 10 }), { items: [] });
    deepEqual(await blobs.listStaged({ limit: 10 }), { items: [] });
  });
  contract("committed blobs are listed in pages, in ASCII order, with size and time", async (blobs) => {
    const before = Date.now() - 2000;
    const expected = new Map<string, number>();
    for (let size = 0; size < 25; size++) expected.set(await store(blobs, randomBytes(size)), size);
    const first = await blobs.list({ limit: 10 });
    equal(first.items.length, 10);
    equal(first.next, first.items.at(-1)?.location);
    const listed: string[] = [];
    for await (const { location, size, modifiedAt } of allPages((page) => blobs.list(page), 10)) {
      equal(size, expected.get(location));
      ok(modifiedAt >= before && modifiedAt <= Date.now() + 2000);
      listed.push(location);
    }
    deepEqual(listed, [...expected.keys()].sort());
  });
  contract("a full last page has no next one", async (blobs) => {
    for (let count = 0; count < 4; count++) await store(blobs, randomBytes(8));
    const page = await blobs.list({ limit: 4 });
    equal(page.items.length, 4);
    equal(page.next, undefined);
  });
  contract("a listing goes on after a location that is gone", async (blobs) => {
    const locations: string[] = [];
    for (let count = 0; count < 6; count++) locations.push(await store(blobs, randomBytes(8)));
    locations.sort();
    await blobs.delete(locations[2] ?? "");
    const page = await blobs.list({ after: locations[2] ?? "", limit: 10 });
    deepEqual(
      page.items.map(({ location }) => location),
      locations.slice(3),
    );
  });
  contract("staged uploads are not among the committed, and the other way round", async (blobs) => {
    const staged = await blobs.stage(newId());
    await staged.append(chunked(randomBytes(10), 10));
    equal((await blobs.list({ limit: 10 })).items.length, 0);
    await staged.commit("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" as never);
    equal((await blobs.listStaged({ limit: 10 })).items.length, 0);
    equal((await blobs.list({ limit: 10 })).items.length, 1);
  });
  contract("staged uploads are listed in pages, in ASCII order", async (blobs) => {
    const before = Date.now() - 2000;
    const ids = Array.from({ length: 12 }, newId);
    for (const id of ids) await (await blobs.stage(id)).append(chunked(randomBytes(10), 10));
    const listed: string[] = [];
    for await (const { id, modifiedAt } of allPages((page) => blobs.listStaged(page), 5)) {
      ok(modifiedAt >= before && modifiedAt <= Date.now() + 2000);
      listed.push(id);
    }
    deepEqual(listed, ids.sort());
  });
  contract("a listing of staged uploads goes on after one that is gone", async (blobs) => {
    const ids = Array.from({ length: 5 }, newId).sort();
    for (const id of ids) await blobs.stage(id);
    await blobs.discardStaged(ids[1] ?? "");
    const { items } = await blobs.listStaged({ after: ids[1] ?? "", limit: 10 });
    deepEqual(
      items.map(({ id }) => id),
      ids.slice(2),
    );
  });
  contract("a page of nothing is empty, and the last", async (blobs) => {
    await store(blobs, randomBytes(8));
    await blobs.stage(newId());
    deepEqual(await blobs.list({ limit: 0 }), { items: [] });
    deepEqual(await blobs.listStaged({ limit: 0 }), { items: [] });
  });
  contract("an upload that nobody knows is discarded without complaint", async (blobs) => {
    const staged = await blobs.stage(newId());
    await blobs.discardStaged(newId());
    equal((await blobs.listStaged({ limit: 10 })).items.length, 1);
    await staged.abort();
  });
  contract("the free space on the volume is given in bytes, where it is known", async (blobs) => {
    const space = await blobs.space?.();
    if (space) ok(Number.isSafeInteger(space.total) && Number.isSafeInteger(space.free) && space.free >= 0 && space.free <= space.total);
  });
  contract("a discarded upload is gone; discarding is idempotent", async (blobs) => {
    const id = newId();
    const staged = await blobs.stage(id);
    await staged.append(chunked(randomBytes(10), 10));
    await blobs.discardStaged(id);
    await blobs.discardStaged(id);
    equal((await blobs.listStaged({ limit: 10 })).items.length, 0);
    await rejects(blobs.reopen(id, staged.state), (error) => isRegistryError(error) && error.code === "BLOB_UPLOAD_UNKNOWN");
  });
}
