import { localRegistry, mediaTypes, type Storage } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";

/** A storage that counts how often a manifest is read. */
function counting(): { storage: Storage; reads(): number } {
  const storage = memoryStorage();
  const { metadata } = storage;
  let reads = 0;
  return {
    storage: {
      blobs: storage.blobs,
      metadata: {
        get: (key) => {
          if (key.kind === "manifest") reads += 1;
          return metadata.get(key);
        },
        page: (range) => metadata.page(range),
        names: (range) => metadata.names(range),
        commit: (conditions, changes) => metadata.commit(conditions, changes),
        ready: () => metadata.ready(),
        close: () => metadata.close(),
      },
    },
    reads: () => reads,
  };
}

test("a second delete under protection reads only the manifests that are new", async () => {
  const { storage, reads } = counting();
  const registry = localRegistry({ storage, name: "r" });
  for (let at = 0; at < 30; at++) await pushImage(registry, "app", `1.${at}`, makeImage([10]));
  const loose = [];
  for (let at = 0; at < 3; at++) loose.push(await pushImage(registry, "app", `dev-${at}`, makeImage([10])));
  const protects = (tag: string) => tag.startsWith("1.");
  const readsOf = async (run: () => Promise<void>) => {
    const before = reads();
    await run();
    return reads() - before;
  };
  const [first, second, third] = loose;
  expect(await readsOf(() => registry.deleteManifest("app", first?.digest ?? "", { protects }))).toBeGreaterThanOrEqual(33);
  // The manifest that goes, and nothing else.
  expect(await readsOf(() => registry.deleteManifest("app", second?.digest ?? "", { protects }))).toBe(1);
  expect(await readsOf(() => registry.deleteBlob("app", third?.layers[0]?.digest ?? "", { protects }))).toBe(0);
  await pushImage(registry, "app", "1.30", makeImage([10]));
  expect(await readsOf(() => registry.deleteBlob("app", third?.config.digest ?? "", { protects }))).toBe(1);
});

test("what a protected manifest needs cannot be found out where it cannot be read: then nothing goes", async () => {
  const storage = memoryStorage();
  const registry = localRegistry({ storage, name: "r" });
  const [kept, other] = [await pushImage(registry, "app", "1"), await pushImage(registry, "app", "2")];
  const key = { kind: "manifest" as const, parts: ["r", "app", kept.digest] };
  const value = { mediaType: mediaTypes.ociManifest, pushedAt: 1 };
  await storage.metadata.commit([], [{ put: key, value, bytes: Buffer.from("no manifest") }]);
  const removal = registry.deleteBlob("app", other.config.digest, { protects: (tag) => tag === "1" });
  await expect(removal).rejects.toMatchObject({ code: "DENIED", message: expect.stringContaining("cannot be read") });
  await registry.deleteBlob("app", other.config.digest, { protects: (tag) => tag === "2.0" });
});
