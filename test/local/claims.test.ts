import { randomBytes } from "node:crypto";
import { digestOf, localRegistry, type Storage } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { beforeEach, describe, expect, test } from "vitest";
import { bytesOf } from "../fixtures/read.js";
import { store } from "../upkeep/support.js";

const bytes = randomBytes(1000);
const digest = digestOf(bytes);
const descriptor = { mediaType: "application/octet-stream", digest, size: bytes.byteLength };
const origin = { member: "hub", repository: "library/app" };
let clock: ReturnType<typeof fakeClock>;
let storage: Storage;
const registryOver = (over: Storage) => localRegistry({ storage: over, name: "release", clock });

beforeEach(() => {
  clock = fakeClock();
  storage = memoryStorage({ clock });
});

describe("a claim to bytes that are here is not replaced by one that leads elsewhere", () => {
  test.each(["mount", "mount without a source", "link"])("by a %s", async (how) => {
    const registry = registryOver(storage);
    await registry.linkBlob("from", descriptor, origin);
    await store(registry, "app", digest, bytes);
    if (how === "link") await registry.linkBlob("app", descriptor, origin);
    else
      await registry.mountBlob("app", digest, how === "mount" ? { registry, repository: "from" } : undefined, {
        permits: (name) => name === "from",
      });
    expect((await bytesOf(await registry.getBlob("app", digest))).equals(bytes)).toBe(true);
  });

  test.each(["mount", "link"])("by a %s, also when it comes in the middle of that", async (how) => {
    const registry = registryOver(storage);
    await registry.linkBlob("from", descriptor, origin);
    const { commit } = storage.metadata;
    storage.metadata.commit = async (conditions, changes) => {
      storage.metadata.commit = commit;
      await store(registry, "app", digest, bytes);
      return commit(conditions, changes);
    };
    if (how === "link") await registry.linkBlob("app", descriptor, origin);
    else expect(await registry.mountBlob("app", digest, { registry, repository: "from" })).toMatchObject({ digest });
    expect((await bytesOf(await registry.getBlob("app", digest))).equals(bytes)).toBe(true);
  });
});
