import { randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { allPages } from "oci-manifold";
import { fileBlobStore } from "oci-manifold/storage/files";
import { expect, test } from "vitest";
import { folderPage } from "../../src/storage/files/folder-pages.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

/** Staged files of a store that had trouble; answers their names in order. */
function manyFiles(folder: string, count: number): string[] {
  mkdirSync(join(folder, "uploads"));
  const names = Array.from({ length: count }, () => randomBytes(16).toString("hex"));
  for (const name of names) writeFileSync(join(folder, "uploads", name), "");
  return names.sort();
}

test("20,000 staged files are listed in order, in pages", { timeout: 60_000 }, async () => {
  const folder = temporaryFolder();
  const names = manyFiles(folder, 20_000);
  const { listStaged } = fileBlobStore(folder);
  const listed: string[] = [];
  for await (const { id } of allPages((page) => listStaged(page), 7000)) listed.push(id);
  expect(listed).toEqual(names);
  expect(await listStaged({ after: names[19_998] ?? "", limit: 5 })).toMatchObject({ items: [{ id: names[19_999] }] });
  const page = await listStaged({ limit: 1 });
  expect([page.items.map(({ id }) => id), page.next]).toEqual([[names[0]], names[0]]);
});

test("what goes between the listing and the look at it leaves a page full all the same", async () => {
  const folder = temporaryFolder();
  const names = manyFiles(folder, 500);
  const uploads = join(folder, "uploads");
  const listing = folderPage(uploads, { limit: 200 });
  await Promise.all(names.slice(0, 100).map((name) => rm(join(uploads, name))));
  const { items, next } = await listing;
  expect([items.length, next]).toEqual([200, items.at(-1)?.name]);
  const listed = items.map(({ name }) => name);
  expect(listed).toEqual([...listed].sort());
});
