import { join } from "node:path";
import { localRegistry, type Storage } from "oci-manifold";
import type { MetadataStore } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, onTestFinished, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

const storages: readonly (readonly [string, () => Storage])[] = [
  ["memory", memoryStorage],
  ["files", () => fileStorage(join(temporaryFolder(), "data"))],
];

test.each(storages)(
  "300 pushes of one manifest under as many tags, all at once, take as many commits, and so do pushes of one tag: %s",
  async (_, storageOf) => {
    const storage = storageOf();
    let commits = 0;
    const metadata: MetadataStore = {
      ...storage.metadata,
      commit(...args) {
        commits++;
        return storage.metadata.commit(...args);
      },
    };
    const registry = localRegistry({ storage: { ...storage, metadata }, name: "r" });
    onTestFinished(() => registry.close());
    const image = makeImage([10]);
    await pushImage(registry, "other", "1", image);
    for (const blob of [...image.layers, image.config]) await registry.mountBlob("app", blob.digest, { registry, repository: "other" });
    for (const round of ["new", "known"]) {
      commits = 0;
      const pushes = Array.from({ length: 300 }, (_, index) => registry.putManifest("app", `${round}-${index}`, { bytes: image.manifest }));
      const digests = await Promise.all(pushes);
      expect(new Set(digests.map(({ digest }) => digest))).toEqual(new Set([image.digest]));
      expect(commits).toBe(300);
    }
    const others = Array.from({ length: 300 }, (_, index) => makeImage([10], { annotations: { build: String(index) } }).manifest);
    commits = 0;
    await Promise.all(others.map((bytes) => registry.putManifest("app", "latest", { bytes }, { references: "trust" })));
    expect(commits).toBe(300);
  },
);
