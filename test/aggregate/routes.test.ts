import { chunksOf, digestOf, localRegistry, orThrow, routes } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";

const storage = memoryStorage();
const registries = () => ["release", "team", "blue", "hub"].map((name) => localRegistry({ storage: memoryStorage(), name }));

test("the longest prefix wins, and a route's names never reach the fallback", async () => {
  const [release, team, blue, hub] = registries() as [ReturnType<typeof localRegistry>, ...ReturnType<typeof localRegistry>[]];
  if (!team || !blue || !hub) throw new Error("four registries");
  const { registry: fallback, calls } = spied(hub);
  const all = routes({ release, team, "team/blue": blue }, { fallback });
  const image = await pushImage(all, "team/blue/app", "1");
  expect(orThrow(await blue.resolveManifest("app", "1")).digest).toBe(image.digest);
  await pushImage(hub, "library/node", "22");
  expect(await all.getManifest("library/node", "22")).toMatchObject({ kind: "found", served: { member: ["fallback", "hub"] } });
  calls.length = 0;
  for (const name of ["release/app", "release", "team", "team/blue"]) expect((await all.getManifest(name, "1")).kind).toBe("absent");
  expect(calls).toEqual([]);
  expect((await all.getManifest("released", "1")).kind).toBe("absent");
  expect(calls).toEqual(["getManifest released 1"]);
});

test("a name of no route cannot be written to", async () => {
  const all = routes({ release: localRegistry({ storage, name: "release" }) });
  const bytes = Buffer.from("x");
  await expect(all.putBlob("other/app", { digest: digestOf(bytes) }, chunksOf(bytes))).rejects.toMatchObject({
    code: "NAME_UNKNOWN",
    message: expect.stringContaining("release/"),
  });
});

test.each([
  ["PrereleaseImages", 'use "prerelease-images"'],
  ["/release/", 'use "release"'],
  ["Team Blue", 'use "team-blue"'],
  ["", "cannot be a route"],
])("the prefix %j throws with a suggestion", (prefix, message) => {
  expect(() => routes({ [prefix]: localRegistry({ storage, name: "r" }) })).toThrow(message);
});

test("namespaces are a closed look-up", () => {
  const hub = localRegistry({ storage, name: "hub" });
  const all = routes({ hub }, { namespaces: { "docker.io": hub } });
  expect(all.forNamespace("Docker.io")).toBe(hub);
  expect(all.forNamespace("quay.io")).toBeUndefined();
});

test("the catalog is paged over all routes in order", async () => {
  const a = localRegistry({ storage: memoryStorage(), name: "a" });
  const nested = localRegistry({ storage: memoryStorage(), name: "nested" });
  const hub = localRegistry({ storage: memoryStorage(), name: "hub" });
  const all = routes({ a, "a-b": hub, "a/n": nested }, { fallback: hub });
  for (const name of ["x", "n/hidden", "z"]) await pushImage(a, name, "1");
  for (const name of ["y", "b"]) await pushImage(nested, name, "1");
  await pushImage(hub, "q", "1");
  const expected = ["a-b/q", "a/n/b", "a/n/y", "a/x", "a/z"];
  expect(orThrow(await all.listRepositories({ limit: 100 })).items).toEqual(expected);
  for (const limit of [1, 2, 3]) {
    const seen: string[] = [];
    let after: string | undefined;
    do {
      const page = orThrow(await all.listRepositories({ limit, ...(after !== undefined && { after }) }));
      seen.push(...page.items);
      after = page.next;
    } while (after !== undefined);
    expect(seen).toEqual(expected);
  }
});

test("closing closes each part once, shared or not", async () => {
  const shared = memoryStorage();
  const closed: string[] = [];
  const { close } = shared.metadata;
  shared.metadata.close = async () => {
    closed.push("metadata");
    await close.call(shared.metadata);
  };
  const one = localRegistry({ storage: shared, name: "one" });
  const two = localRegistry({ storage: shared, name: "two" });
  const all = routes({ one, two, again: one }, { fallback: two });
  await Promise.all([all.close(), all.close()]);
  expect(closed).toEqual(["metadata"]);
});
