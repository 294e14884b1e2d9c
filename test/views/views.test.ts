import { type Events, filtered, localRegistry, orThrow, readOnly, renamed, routes } from "oci-manifold";
import { chunksOf, digestOf, observed } from "oci-manifold/extend";
import { prefixed } from "oci-manifold/names";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { accessOf } from "../../src/core/registry-calls.js";
import { mergePages } from "../../src/views/merge-pages.js";
import { compilePatterns } from "../../src/views/patterns.js";
import { makeImage, pushImage } from "../fixtures/images.js";

const bytes = Buffer.from("x");
const digest = digestOf(bytes);
const fresh = () => localRegistry({ storage: memoryStorage(), name: "r" });

test("a read-only view refuses every write, in open upload sessions too", async () => {
  const registry = fresh();
  const image = await pushImage(registry, "app", "1");
  const view = readOnly(registry);
  expect((await view.getManifest("app", "1")).kind).toBe("found");
  const attempts = [
    view.putManifest("app", "2", { bytes: image.manifest }),
    view.putBlob("app", { digest }, chunksOf(bytes)),
    view.mountBlob("b", image.config.digest, { registry: view, repository: "app" }),
    view.startUpload("app"),
    view.resumeUpload("app", "0".repeat(32)),
    view.deleteManifest("app", "1"),
    view.deleteBlob("app", image.config.digest),
  ];
  expect(attempts).toHaveLength(Object.values(accessOf).filter((access) => access === "push" || access === "delete").length);
  for (const attempt of attempts) await expect(attempt).rejects.toMatchObject({ code: "UNSUPPORTED" });
});

test("closing a composition over a view leaves the registry to those who still hold it", async () => {
  const storage = memoryStorage();
  let closed = 0;
  const { close } = storage.metadata;
  storage.metadata.close = async () => {
    closed += 1;
    await close.call(storage.metadata);
  };
  const registry = localRegistry({ storage, name: "r" });
  const one = routes({ x: readOnly(registry) });
  const other = routes({ y: filtered(renamed(registry, prefixed("y/")), { allow: ["**"] }) });
  await one.close();
  expect(closed).toBe(0);
  await other.close();
  expect(closed).toBe(1);
});

test("tags beside a digest are filtered like the reference", async () => {
  const registry = fresh();
  const image = await pushImage(registry, "app", "dev");
  const view = filtered(registry, { block: ["app:release-*"] });
  orThrow(await view.getManifest("app", "dev"));
  const sneaking = view.putManifest("app", image.digest, { bytes: image.manifest }, { tags: ["release-1"] });
  await expect(sneaking).rejects.toMatchObject({ code: "NAME_UNKNOWN" });
  expect((await registry.getManifest("app", "release-1")).kind).toBe("absent");
});

test("a renamed view maps every method, and mounts within itself", async () => {
  const registry = fresh();
  const view = renamed(registry, prefixed("team/"));
  const image = await pushImage(view, "team/app", "1");
  expect(orThrow(await registry.resolveManifest("app", "1")).digest).toBe(image.digest);
  expect((await view.resolveManifest("app", "1")).kind).toBe("absent");
  await expect(view.startUpload("other/app")).rejects.toMatchObject({ code: "NAME_UNKNOWN" });
  expect(await view.mountBlob("team/b", image.config.digest, { registry: view, repository: "team/app" })).toMatchObject({
    digest: image.config.digest,
  });
  const upload = await view.startUpload("team/app");
  await upload.append(chunksOf(bytes));
  await (await view.resumeUpload("team/app", upload.id)).commit(digest);
  expect((await registry.resolveBlob("app", digest)).kind).toBe("found");
  for (const name of ["a", "z"]) await pushImage(registry, name, "1", image);
  expect(orThrow(await view.listRepositories({ limit: 2 }))).toMatchObject({ items: ["team/a", "team/app"], next: "team/app" });
  expect(orThrow(await view.listRepositories({ limit: 2, after: "team/app" }))).toEqual({ items: ["team/z"] });
});

test("an observed view tells every manifest GET, PUT and DELETE", async () => {
  const told: [string, object][] = [];
  const events = { emit: <K extends keyof Events>(type: K, event: Events[K]) => void told.push([type, event]) };
  const view = observed(fresh(), events, fakeClock(1000));
  const o = { caller: { name: "ann" }, address: "10.0.0.1", trace: "t" };
  const image = makeImage([]);
  for (const blob of image.blobs) await view.putBlob("app", { digest: blob[0] }, chunksOf(blob[1]));
  await view.putManifest("app", "1", { bytes: image.manifest }, o);
  await view.getManifest("app", "1", o);
  await view.getManifest("app", "2", o);
  await view.deleteManifest("app", "1", o);
  await view.deleteManifest("app", "1", o).catch(() => {});
  const facts = { time: 1000, repository: "app", reference: "1", ...o };
  expect(told).toEqual([
    ["manifest.put", { ...facts, digest: image.digest, bytes: image.manifest.byteLength, outcome: "ok" }],
    ["manifest.get", { ...facts, digest: image.digest, bytes: image.manifest.byteLength, member: ["r"], outcome: "ok" }],
    ["manifest.get", { ...facts, reference: "2", outcome: "MANIFEST_UNKNOWN" }],
    ["manifest.delete", { ...facts, outcome: "ok" }],
    ["manifest.delete", { ...facts, outcome: "MANIFEST_UNKNOWN" }],
  ]);
});

test("an observer that throws harms nobody", async () => {
  const events = {
    emit() {
      throw new Error("observer");
    },
  };
  const view = observed(fresh(), events);
  await pushImage(view, "app", "1");
  expect((await view.getManifest("app", "1")).kind).toBe("found");
});

describe("patterns", () => {
  test.each([
    [undefined, undefined, "all"],
    [[], undefined, "none"],
    [["app"], undefined, "all"],
    [["app:1.*"], undefined, "tags"],
    [["app", "app:1"], undefined, "all"],
    [undefined, ["app:latest"], "tags"],
    [["app"], ["**"], "none"],
  ])("allow %j block %j of app: %s", (allow, block, verdict) => {
    expect(compilePatterns(allow, block).repository("app")).toBe(verdict);
  });

  test.each(["", "A", "a b", "a:b:c", "a(b)+", "a:", "^"])("%j is no pattern", (pattern) => {
    expect(() => compilePatterns([pattern], undefined)).toThrow("is not a pattern");
  });
});

test("merged pages show nothing beyond what a member with more to give has given", () => {
  const page = (member: string, items: string[], next?: string) => ({
    member,
    lookup: { kind: "found" as const, served: { member: [] }, value: { items, ...(next && { next }) } },
  });
  const merged = mergePages([page("a", ["b", "d"], "d"), page("b", ["a", "c", "e", "f"])], 10, (item) => item, { member: [] });
  expect(orThrow(merged)).toEqual({ items: ["a", "b", "c", "d"], next: "d" });
  const short = mergePages([page("a", [], "c"), page("b", ["x"])], 10, (item) => item, { member: [] });
  expect(orThrow(short)).toEqual({ items: [], next: "c" });
});
