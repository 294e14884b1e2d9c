import { randomBytes } from "node:crypto";
import { localRegistry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { expect, test } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

test("two processes that push the same count it once", async () => {
  const folder = temporaryFolder();
  const nodes = [fileStorage(folder), fileStorage(folder)].map((storage) => localRegistry({ storage, name: "team", maxBytes: "1GiB" }));
  await Promise.all(nodes.map((node) => node.ready()));
  for (let round = 0; round < 60; round++) {
    const bytes = randomBytes(1000);
    const digest = digestOf(bytes);
    await Promise.all(nodes.map((node, index) => node.putBlob(`repository-${index}`, { digest, size: 1000 }, chunksOf(bytes))));
  }
  const [node] = nodes;
  expect((await node?.usage())?.bytes).toBe(60_000);
  await Promise.all(nodes.map((one) => one.close()));
});
