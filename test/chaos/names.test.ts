import { readdirSync } from "node:fs";
import { localRegistry } from "oci-manifold";
import { fileStorage } from "oci-manifold/storage/files";
import { expect, test } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { site } from "../http/support.js";
import { askHostileNames, pushReservedNames, repositories } from "./hostile-names.js";

const own =
  /^(?:metadata\.sqlite(?:-wal|-shm)?|reserve|identity|uploads|uploads\/[a-f0-9]{32}|blobs|blobs\/sha256|blobs\/sha256\/[a-f0-9]{2}|blobs\/sha256\/[a-f0-9]{2}\/[a-f0-9]{64}\.[a-f0-9]{16})$/;

test("names that differ only in case, and those that a system reserves, are records: they do not collide, and no file is named by a user", async () => {
  const folder = temporaryFolder();
  const { url, registry } = await site(localRegistry({ storage: fileStorage(folder), name: "release" }));
  await pushReservedNames(url);
  await askHostileNames(url);
  const files = readdirSync(folder, { recursive: true }).map(String);
  expect(files.filter((name) => !own.test(name))).toEqual([]);
  expect(files.length).toBeGreaterThan(2 * repositories.length);
  await registry.close();
});
