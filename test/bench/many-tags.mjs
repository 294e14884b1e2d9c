/**
 * The first page of tags of a repository with a thousand tags and of one with a million, in the same run: both should cost the same. The pages kept in
 * memory would hide the database, so each question begins elsewhere (`last`).
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { localRegistry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";

const digest = digestOf(Buffer.from("manifest"));
const data = await mkdtemp(join(tmpdir(), "manifold-tags-"));
const storage = fileStorage(data);
const registry = localRegistry({ storage, name: "bench" });
const tag = (index) => `v${String(index).padStart(7, "0")}`;
try {
  for (const [repository, count] of Object.entries({ thousand: 1000, million: 1_000_000 })) {
    await storage.metadata.commit([], [{ put: { kind: "repository", parts: ["bench", repository] }, value: { updatedAt: 0 } }]);
    for (let from = 0; from < count; from += 10_000) {
      const tags = Array.from({ length: Math.min(10_000, count - from) }, (_, index) => tag(from + index));
      await storage.metadata.commit(
        [],
        tags.map((name) => ({ put: { kind: "tag", parts: ["bench", repository, name] }, value: { digest, updatedAt: 0 } })),
      );
    }
  }
  const pages = 400;
  for (let turn = 0; turn < 2; turn++) {
    for (const repository of ["thousand", "million"]) {
      const begun = performance.now();
      for (let page = 0; page < pages; page++) await registry.listTags(repository, { limit: 100, after: tag(turn * pages + page) });
      const each = ((performance.now() - begun) / pages) * 1000;
      if (turn > 0) console.log(`first pages of a ${repository} tags  ${each.toFixed(0)} µs each`);
    }
  }
} finally {
  await registry.close();
  await rm(data, { recursive: true });
}
