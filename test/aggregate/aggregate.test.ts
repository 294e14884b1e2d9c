import { randomBytes } from "node:crypto";
import { aggregate, type Connector, cached, localRegistry, orThrow, type Registry, RegistryError, routes } from "oci-manifold";
import { chunksOf, digestOf, type StoringRegistry } from "oci-manifold/extend";
import { prefixed } from "oci-manifold/names";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, describe, expect, test } from "vitest";
import { makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf, eventually } from "../fixtures/read.js";
import { spied } from "../fixtures/spy.js";

let storage = memoryStorage();
let release: StoringRegistry;
let local: StoringRegistry;
const joined = (...connectors: Connector[]) => aggregate({ local, connectors });
const failing = (code: "UNAVAILABLE" | "TOOMANYREQUESTS" | "DENIED", retryAfter?: number): Registry => {
  const error = new RegistryError(code, "no", retryAfter === undefined ? {} : { retryAfter });
  const answer = async () => ({ kind: code === "DENIED" ? ("denied" as const) : ("unavailable" as const), error });
  return {
    ...release,
    resolveManifest: answer,
    getManifest: answer,
    resolveBlob: answer,
    getBlob: answer,
    listTags: answer,
    listRepositories: answer,
    listReferrers: answer,
  };
};

beforeEach(() => {
  storage = memoryStorage();
  release = localRegistry({ storage: memoryStorage(), name: "release" });
  local = localRegistry({ storage, name: "prerelease" });
});

describe("the seed's direction", () => {
  test("what is in release is pulled from prerelease as if stored there, never the reverse", async () => {
    const { registry, calls } = spied(release);
    const prerelease = joined({ name: "release", source: registry });
    const image = await pushImage(release, "app", "1");
    const mine = await pushImage(prerelease, "mine", "1");
    calls.length = 0;
    for (const reference of ["1", image.digest])
      expect(orThrow(await prerelease.getManifest("app", reference)).descriptor.digest).toBe(image.digest);
    for (const digest of image.blobs.keys()) expect(digestOf(await bytesOf(await prerelease.getBlob("app", digest)))).toBe(digest);
    expect(await prerelease.getManifest("app", "1")).toMatchObject({ served: { member: ["release"] } });
    expect((await release.getManifest("mine", "1")).kind).toBe("absent");
    expect((await release.resolveBlob("mine", mine.config.digest)).kind).toBe("absent");
    // Local to local: the source was asked directly, and nothing was copied.
    expect(calls.filter((call) => call.startsWith("getBlob"))).toHaveLength(image.blobs.size);
    expect((await storage.blobs.list({ limit: 10 })).items).toHaveLength(mine.blobs.size);
  });

  test("local first, then connectors in order", async () => {
    const other = localRegistry({ storage, name: "other" });
    const [first, second] = [await pushImage(release, "app", "1"), await pushImage(other, "app", "1")];
    const prerelease = joined({ name: "release", source: release }, { name: "other", source: other });
    expect(orThrow(await prerelease.resolveManifest("app", "1")).digest).toBe(first.digest);
    expect(orThrow(await prerelease.resolveManifest("app", second.digest)).digest).toBe(second.digest);
    const mine = await pushImage(prerelease, "app", "1");
    expect(orThrow(await prerelease.resolveManifest("app", "1")).digest).toBe(mine.digest);
  });
});

describe("filters hold for tags, digests and blobs", () => {
  const visible = async (registry: Registry, image: { digest: string; config: { digest: string } }, repository: string, tag: string) =>
    Promise.all([
      registry.getManifest(repository, tag),
      registry.resolveManifest(repository, image.digest),
      registry.getBlob(repository, image.config.digest),
      registry.resolveBlob(repository, image.config.digest),
    ]).then((lookups) => lookups.map((lookup) => lookup.kind === "found"));

  test.each([
    ["no filter", {}, "library/node", true],
    ["allowed", { allow: ["library/node"] }, "library/node", true],
    ["another is allowed", { allow: ["library/alpine"] }, "library/node", false],
    ["nothing is allowed", { allow: [] }, "library/node", false],
    ["* stays within a segment", { allow: ["*"] }, "library/node", false],
    ["* is one segment", { allow: ["library/*"] }, "library/node", true],
    ["** crosses segments", { allow: ["**"] }, "a/b/c", true],
    ["blocked", { block: ["library/node"] }, "library/node", false],
    ["block wins", { allow: ["library/node"], block: ["library/*"] }, "library/node", false],
    ["a dot is a dot", { allow: ["a.b"] }, "acb", false],
  ])("%s", async (_, filter, repository, expected) => {
    const image = await pushImage(release, repository, "1");
    expect(await visible(joined({ name: "release", source: release, ...filter }), image, repository, "1")).toEqual(Array(4).fill(expected));
  });

  test("under a tag filter a digest is visible once a permitted tag or index led to it, also after a restart", async () => {
    const children = [await pushImage(release, "node", "22-amd"), makeImage([3])];
    for (const child of children) await pushImage(release, "node", `x-${child.digest.slice(7, 12)}`, child);
    const index = makeIndex(children);
    await release.putManifest("node", "22-slim", { bytes: index.bytes });
    const old = await pushImage(release, "node", "20");
    const connector: Connector = { name: "release", source: release, allow: ["node:22-*"], block: ["node:22-amd"] };
    const prerelease = joined(connector);
    const child = children[0];
    if (!child) throw new Error("no child");
    expect(await visible(prerelease, child, "node", "22-amd")).toEqual([false, false, false, false]);
    expect(await visible(prerelease, old, "node", "20")).toEqual([false, false, false, false]);
    expect(orThrow(await prerelease.getManifest("node", "22-slim")).descriptor.digest).toBe(index.digest);
    orThrow(await prerelease.getManifest("node", child.digest));
    const restarted = joined(connector);
    expect((await visible(restarted, child, "node", "22-amd")).slice(1)).toEqual([true, true, true]);
    expect((await restarted.getManifest("node", "20")).kind).toBe("absent");
    expect((await restarted.getManifest("node", old.digest)).kind).toBe("absent");
    expect(orThrow(await restarted.listTags("node", { limit: 10 })).items).toEqual(["22-slim"]);
  });

  test("hidden repositories are not listed", async () => {
    for (const name of ["a", "b/secret", "b/shown"]) await pushImage(release, name, "1");
    const prerelease = joined({ name: "release", source: release, block: ["b/secret"] });
    expect(orThrow(await prerelease.listRepositories({ limit: 10 })).items).toEqual(["a", "b/shown"]);
    expect(orThrow(await prerelease.listRepositories({ limit: 1 }))).toMatchObject({ items: ["a"], next: "a" });
  });
});

describe("names", () => {
  test("are mapped both ways", async () => {
    const image = await pushImage(release, "app", "1");
    const prerelease = joined({ name: "release", source: release, rename: prefixed("stable/"), block: ["secret"] });
    await pushImage(release, "secret", "1");
    expect((await prerelease.resolveManifest("app", "1")).kind).toBe("absent");
    expect(orThrow(await prerelease.resolveManifest("stable/app", "1")).digest).toBe(image.digest);
    expect((await prerelease.resolveManifest("stable/secret", "1")).kind).toBe("absent");
    expect(orThrow(await prerelease.listRepositories({ limit: 10 })).items).toEqual(["stable/app"]);
  });

  test("reserved ones are asked of the local member only", async () => {
    await pushImage(release, "internal/app", "1");
    const prerelease = aggregate({ local, connectors: [{ name: "release", source: release }], reserved: ["internal/**"] });
    expect((await prerelease.resolveManifest("internal/app", "1")).kind).toBe("absent");
    expect((await prerelease.listTags("internal/app", { limit: 1 })).kind).toBe("absent");
  });

  test.each([
    ["twice the same", () => joined({ name: "a", source: release }, { name: "a", source: local }), 'two connectors are called "a"'],
    ["upper case", () => joined({ name: "Release", source: release }), "cannot name a connector"],
    ["a bad pattern", () => joined({ name: "a", source: release, allow: ["Library/Node"] }), "is not a pattern"],
  ])("%s throws", (_, build, message) => {
    expect(build).toThrow(message);
  });

  test("one whose meaning changed is refused at start", async () => {
    await joined({ name: "upstream", source: release }).ready();
    await joined({ name: "upstream", source: release, block: ["x"] }).ready();
    const other = localRegistry({ storage, name: "other" });
    await expect(joined({ name: "upstream", source: other }).ready()).rejects.toMatchObject({
      code: "DENIED",
      message: expect.stringContaining("another name"),
    });
  });
});

describe("typed absence", () => {
  test.each([
    ["all absent", () => [], "absent", undefined],
    [
      "all 429",
      () => [failing("TOOMANYREQUESTS", 9), failing("TOOMANYREQUESTS", 4)],
      "unavailable",
      { code: "TOOMANYREQUESTS", retryAfter: 4 },
    ],
    ["mixed", () => [failing("TOOMANYREQUESTS", 9), failing("DENIED")], "unavailable", { code: "UNAVAILABLE", retryAfter: 9 }],
  ])("by digest: %s", async (_, sources, kind, error) => {
    const prerelease = joined(...sources().map((source, index) => ({ name: `m${index}`, source })), { name: "release", source: release });
    const answer = { kind, ...(error && { error }) };
    expect(await prerelease.getManifest("app", digestOf(Buffer.from("x")))).toMatchObject(answer);
    expect(await prerelease.resolveBlob("app", digestOf(Buffer.from("x")))).toMatchObject(answer);
  });

  test("by tag a failure ends the search, by digest it goes on", async () => {
    const image = await pushImage(release, "app", "1");
    const stop = joined({ name: "down", source: failing("UNAVAILABLE") }, { name: "release", source: release });
    expect(await stop.getManifest("app", "1")).toMatchObject({
      kind: "unavailable",
      error: { code: "UNAVAILABLE", message: expect.stringContaining("down") },
    });
    expect((await stop.getManifest("app", image.digest)).kind).toBe("found");
    expect((await stop.getBlob("app", image.config.digest)).kind).toBe("found");
    const next = joined({ name: "down", source: failing("UNAVAILABLE"), onFailure: "next" }, { name: "release", source: release });
    expect((await next.getManifest("app", "1")).kind).toBe("found");
    expect(await next.getManifest("app", "2")).toMatchObject({ kind: "unavailable" });
    expect(orThrow(await next.listTags("app", { limit: 5 }))).toMatchObject({ items: ["1"], warnings: [expect.stringContaining("down")] });
  });
});

describe("content level", () => {
  test("a manifest may refer to layers behind a connector, by name and by mount; its bytes are then copied to local", async () => {
    const prerelease = joined(
      { name: "release", source: release },
      { name: "hub", source: localRegistry({ storage: memoryStorage(), name: "hub" }), reach: "links" },
    );
    const image = await pushImage(release, "app", "1", makeImage([70_000, 80_000]));
    expect((await prerelease.resolveBlob("app", image.config.digest)).kind).toBe("found");
    await prerelease.putManifest("app", "mine", { bytes: image.manifest });
    expect((await local.resolveManifest("app", "mine")).kind).toBe("found");
    await eventually(async () => (await storage.blobs.list({ limit: 10 })).items.length === image.blobs.size, "the bytes are copied");
    await release.deleteBlob("app", image.config.digest);
    expect(digestOf(await bytesOf(await prerelease.getBlob("app", image.config.digest)))).toBe(image.config.digest);
  });

  test("a blob reference remembers its origin and goes straight there", async () => {
    const hub = localRegistry({ storage: memoryStorage(), name: "hub" });
    const prerelease = aggregate({ local, connectors: [{ name: "hub", source: hub, reach: "links", copyToLocal: "never" }] });
    const base = await pushImage(hub, "library/node", "22", makeImage([100_000]));
    for (const digest of base.blobs.keys()) {
      expect((await prerelease.resolveBlob("library/node", digest)).kind).toBe("absent");
      expect(await prerelease.mountBlob("app", digest, { registry: hub, repository: "library/other" })).toBeUndefined();
      expect(await prerelease.mountBlob("app", digest, { registry: hub, repository: "library/node" })).toMatchObject({ digest });
      expect(await local.resolveBlob("app", digest)).toMatchObject({
        kind: "linked",
        origin: { member: "hub", repository: "library/node" },
      });
      expect(await prerelease.getBlob("app", digest)).toMatchObject({ kind: "found", served: { member: ["hub"] } });
    }
    await prerelease.putManifest("app", "1", { bytes: base.manifest });
    expect((await prerelease.getManifest("app", "1")).kind).toBe("found");
    const gone: string[] = [];
    const watching = aggregate({
      local,
      connectors: [{ name: "hub", source: hub, reach: "links" }],
      events: { emit: (type) => void gone.push(type) },
    });
    await hub.deleteBlob("library/node", base.config.digest);
    expect((await watching.getBlob("app", base.config.digest)).kind).toBe("absent");
    expect(gone).toEqual(["dangling"]);
  });

  test("mounts cross routes; bytes in a shared store are referred to without origin", async () => {
    const shared = localRegistry({ storage, name: "shared" });
    const prerelease = joined({ name: "shared", source: shared, reach: "links" });
    const all = routes({ prerelease, shared });
    const bytes = randomBytes(100);
    const digest = digestOf(bytes);
    await all.putBlob("shared/base", { digest }, chunksOf(bytes));
    await all.mountBlob("prerelease/app", digest, { registry: all, repository: "shared/base" });
    expect((await local.getBlob("app", digest)).kind).toBe("found");
  });

  test("while a connector is down a push that may need it is 503, and a blob whose origin is gone is looked for at other members", async () => {
    const image = await pushImage(release, "app", "1");
    const down = joined({ name: "down", source: failing("UNAVAILABLE") });
    await expect(down.putManifest("app", "1", { bytes: image.manifest })).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await expect(down.putManifest("app", "all", { bytes: makeIndex([image]).bytes })).rejects.toMatchObject({ code: "UNAVAILABLE" });
    const { config } = image;
    for (const origin of ["down", "gone"]) {
      await local.addBlobReference("app", config, { member: origin, repository: "app" });
      const both = joined({ name: "down", source: failing("UNAVAILABLE"), reach: "links" }, { name: "release", source: release });
      expect(digestOf(await bytesOf(await both.getBlob("app", config.digest)))).toBe(config.digest);
    }
  });

  test("an index whose platforms only a connector has, and one that nobody has", async () => {
    const prerelease = joined({ name: "release", source: release });
    const image = await pushImage(release, "app", "1");
    await prerelease.putManifest("app", "all", { bytes: makeIndex([image]).bytes });
    await eventually(async () => (await local.resolveManifest("app", image.digest)).kind === "found", "the child is copied");
    const missing = prerelease.putManifest("app", "none", { bytes: makeIndex([image, makeImage()]).bytes });
    await expect(missing).rejects.toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
    const unknown = prerelease.putManifest("other", "1", { bytes: image.manifest });
    await expect(unknown).rejects.toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
  });

  test("a cache behind a connector is filled through it", async () => {
    const prerelease = joined({ name: "hub", source: cached(release, { storage, name: "hub" }) });
    const image = await pushImage(release, "app", "1", makeImage([100_000]));
    expect(await prerelease.getManifest("app", "1")).toMatchObject({ served: { member: ["hub", "release"], cache: "miss" } });
    for (const digest of image.blobs.keys()) expect(digestOf(await bytesOf(await prerelease.getBlob("app", digest)))).toBe(digest);
  });
});

test("what only a connector gives cannot be deleted here", async () => {
  const image = await pushImage(release, "app", "1");
  const prerelease = joined({ name: "release", source: release });
  await expect(prerelease.deleteManifest("app", "1")).rejects.toMatchObject({ code: "UNSUPPORTED" });
  await expect(prerelease.deleteBlob("app", image.config.digest)).rejects.toMatchObject({ code: "UNSUPPORTED" });
  await expect(prerelease.deleteManifest("app", "2")).rejects.toMatchObject({ code: "MANIFEST_UNKNOWN" });
  await pushBlobs(prerelease, "app", image);
  await prerelease.deleteBlob("app", image.config.digest);
});
