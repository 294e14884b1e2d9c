import { cached, localRegistry, orThrow } from "oci-manifold";
import type { StoringRegistry } from "oci-manifold/extend";
import { browse } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { beforeEach, expect, test } from "vitest";
import { makeImage, makeIndex, pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { joined, put, rejection } from "./support.js";

let local: StoringRegistry;
beforeEach(() => {
  local = localRegistry({ storage: memoryStorage(), name: "release", clock: fakeClock(5_000) });
});

test("tags with digest, platforms, size, times and who gave them, a page at a time", async () => {
  const [amd, arm] = [await pushImage(local, "app", "1", makeImage([100, 200])), await pushImage(local, "app", "2", makeImage([300]))];
  const index = makeIndex([amd, arm]);
  await put(local, "app", "3", index.bytes);
  const first = orThrow(await browse(local, "app", { limit: 2 }));
  expect(first).toMatchObject({
    items: [
      { tag: "1", digest: amd.digest, platforms: ["linux/amd64"], size: amd.config.size + 300, storedAt: 5_000, member: ["release"] },
      { tag: "2" },
    ],
    next: "2",
  });
  const size = amd.config.size + arm.config.size + 600;
  expect(orThrow(await browse(joined(local, []), "app", { limit: 2, after: "2" }))).toMatchObject({
    items: [{ tag: "3", digest: index.digest, platforms: ["linux/amd64", "linux/arm64"], size, storedAt: 5_000 }],
  });
  expect((await browse(local, "none", { limit: 2 })).kind).toBe("absent");
});

test("what cannot be read of one tag is told with it, and the others are whole", async () => {
  const [good, bad] = [await pushImage(local, "app", "good"), await pushImage(local, "app", "bad")];
  await local.deleteBlob("app", bad.config.digest);
  await put(local, "app", "all", makeIndex([good, makeImage()]).bytes, true);
  const { items } = orThrow(await browse(local, "app", { limit: 5 }));
  expect(items.map(({ tag, problem }) => [tag, problem === undefined])).toEqual([
    ["all", false],
    ["bad", false],
    ["good", true],
  ]);
  expect(items[1]).toMatchObject({ digest: bad.digest });
  expect(await rejection(browse(local, "app", { limit: 5 }, { signal: AbortSignal.abort(new Error("enough")) }))).toBeDefined();
});

test("a cache says how complete an image is; layers are not asked for", async () => {
  const image = await pushImage(local, "app", "1");
  const { registry, calls } = spied(local);
  const cache = cached(registry, { storage: memoryStorage(), name: "cache" });
  await cache.warm("app", "1");
  calls.length = 0;
  expect(orThrow(await browse(cache, "app", { limit: 5 })).items).toMatchObject([
    { digest: image.digest, completeness: { complete: true, missing: 0 } },
  ]);
  expect(calls.filter((call) => call.startsWith("getBlob"))).toEqual([]);
  await cache.close();
});
