import { once } from "node:events";
import { allPages, localRegistry, orThrow, type Registry, RegistryError, routes } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
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

describe("a function in place of a table", () => {
  test("is asked with the first segment, for every call, and a registry made a minute ago is served", async () => {
    const teams = new Map<string, Registry>();
    const asked: string[] = [];
    const all = routes(async (name) => {
      asked.push(name);
      return teams.get(name);
    });
    expect((await all.getManifest("red/app", "1")).kind).toBe("absent");
    const red = localRegistry({ storage: memoryStorage(), name: "red" });
    teams.set("red", red);
    const image = await pushImage(all, "red/app", "1");
    expect(orThrow(await red.resolveManifest("app", "1")).digest).toBe(image.digest);
    expect(await all.getManifest("red/app", "1")).toMatchObject({ kind: "found", served: { member: ["red"] } });
    expect(new Set(asked)).toEqual(new Set(["red"]));
    teams.delete("red");
    expect((await all.getManifest("red/app", "1")).kind).toBe("absent");
    await expect(pushImage(all, "red/app", "1")).rejects.toMatchObject({ code: "NAME_UNKNOWN" });
  });

  test("may be synchronous, deeper, and come before a fallback; names that were set go before it", async () => {
    const hub = localRegistry({ storage: memoryStorage(), name: "hub" });
    const blue = localRegistry({ storage: memoryStorage(), name: "blue" });
    const own = localRegistry({ storage: memoryStorage(), name: "own" });
    const all = routes((name) => (name === "team/blue" ? blue : undefined), { depth: 2, fallback: hub });
    await pushImage(all, "team/blue/app", "1");
    expect(orThrow(await blue.listTags("app", { limit: 10 })).items).toEqual(["1"]);
    await pushImage(all, "library/node", "22");
    await pushImage(all, "busybox", "1");
    expect(orThrow(await hub.listRepositories({ limit: 10 })).items).toEqual(["busybox", "library/node"]);
    expect((await all.getManifest("team/blue", "1")).kind).toBe("absent");
    all.set("team/blue", own);
    expect((await all.getManifest("team/blue/app", "1")).kind).toBe("absent");
  });

  test("is not called with what is no name", async () => {
    const asked: string[] = [];
    const all = routes((name) => void asked.push(name));
    for (const name of ["__proto__", "../x/y", "UPPER/x", ""]) expect((await all.listTags(name, { limit: 1 })).kind).toBe("absent");
    expect(asked).toEqual([]);
  });

  test("that fails makes the answer unavailable, never absent; its own refusal is handed on", async () => {
    const broken = routes(async () => {
      throw new Error("the database of teams is down");
    });
    expect(await broken.getManifest("red/app", "1")).toMatchObject({ kind: "unavailable", error: { code: "UNAVAILABLE" } });
    await expect(broken.startUpload("red/app")).rejects.toMatchObject({ code: "UNAVAILABLE" });
    const refused = routes(() => {
      throw new RegistryError("DENIED", "this team is closed");
    });
    expect(await refused.getManifest("red/app", "1")).toMatchObject({ kind: "denied", error: { message: "this team is closed" } });
  });

  test("mounts between two repositories of one team, though each call makes another object", async () => {
    const teamStorage = memoryStorage();
    const all = routes(async (name) => localRegistry({ storage: teamStorage, name }));
    const image = await pushImage(all, "red/base", "1");
    const layer = image.layers[0]?.digest ?? "";
    expect(await all.mountBlob("red/app", layer, { registry: all, repository: "red/base" })).toMatchObject({ digest: layer });
    expect((await all.resolveBlob("red/app", layer)).kind).toBe("found");
  });

  test("lists the repositories of the names it is told, in order and paged, or says that it cannot", async () => {
    const names = ["a", "a-b", "b", "empty"];
    const made = new Map(names.map((name) => [name, localRegistry({ storage: memoryStorage(), name })]));
    for (const [name, repository] of [
      ["a", "x"],
      ["a", "y"],
      ["a-b", "x"],
      ["b", "x"],
      ["b", "z/z"],
    ] as const) {
      await pushImage(made.get(name) as Registry, repository, "1");
    }
    const all = routes((name) => made.get(name), {
      names: async ({ after = "", limit }) => {
        const rest = names.filter((name) => name > after);
        const items = rest.slice(0, Math.min(limit, 2));
        return { items, ...(rest.length > items.length && { next: items.at(-1) ?? "" }) };
      },
    });
    const expected = ["a-b/x", "a/x", "a/y", "b/x", "b/z/z"];
    for (const limit of [1, 2, 3, 100]) {
      const seen: string[] = [];
      for await (const name of allPages(async (page) => orThrow(await all.listRepositories(page)), limit)) seen.push(name);
      expect(seen).toEqual(expected);
    }
    expect(orThrow(await all.listRepositories({ limit: 10 })).warnings).toBeUndefined();
    const without = routes((name) => made.get(name));
    expect(orThrow(await without.listRepositories({ limit: 10 }))).toEqual({ items: [], warnings: [expect.stringContaining("not known")] });
  });
});

describe("a table changed at run time", () => {
  const closing = (name: string) => {
    const inner = localRegistry({ storage: memoryStorage(), name });
    const closed = { times: 0 };
    const { close } = inner;
    inner.close = async (o) => {
      closed.times++;
      await close.call(inner, o);
    };
    return { registry: inner, closed };
  };

  test("serves what was set, gives up what was removed, and refuses a wrong name without a change", async () => {
    const clock = fakeClock();
    const one = closing("one");
    const two = closing("two");
    const all = routes({ team: one.registry }, { clock });
    await pushImage(one.registry, "app", "1");
    await pushImage(two.registry, "app", "2");
    expect(() => all.set("Team", two.registry)).toThrow('use "team"');
    all.set("team", two.registry);
    expect(orThrow(await all.listTags("team/app", { limit: 10 })).items).toEqual(["2"]);
    all.set("team", undefined);
    expect((await all.listTags("team/app", { limit: 10 })).kind).toBe("absent");
    expect([one.closed.times, two.closed.times]).toEqual([0, 0]);
    await clock.advance(30_000);
    expect([one.closed.times, two.closed.times]).toEqual([1, 1]);
    await all.close();
    expect([one.closed.times, two.closed.times]).toEqual([1, 1]);
  });

  test("waits for what runs: an upload and the body of a download", async () => {
    const clock = fakeClock();
    const old = closing("old");
    const all = routes({ team: old.registry }, { clock });
    const image = await pushImage(all, "team/app", "1");
    const { content } = orThrow(await all.getBlob("team/app", image.layers[1]?.digest ?? ""));
    if (content.kind !== "stream") throw new Error("a stream");
    const stream = content.open();
    let goOn = () => {};
    const session = await all.startUpload("team/app");
    const appending = session.append(
      (async function* () {
        yield Buffer.from("one");
        await new Promise<void>((resolve) => {
          goOn = resolve;
        });
        yield Buffer.from("two");
      })(),
    );
    all.set("team", undefined);
    await clock.advance(60_000);
    expect(old.closed.times).toBe(0);
    stream.resume();
    await once(stream, "close");
    expect(old.closed.times).toBe(0);
    goOn();
    expect(await appending).toBe(6);
    await expect.poll(() => old.closed.times).toBe(1);
  });

  test("keeps what has another holder, and what has two names", async () => {
    const clock = fakeClock();
    const shared = closing("shared");
    const other = routes({ shared: shared.registry });
    const all = routes({ one: shared.registry, two: shared.registry }, { clock });
    all.set("one", undefined);
    await clock.advance(60_000);
    await all.close();
    expect(shared.closed.times).toBe(0);
    await other.close();
    expect(shared.closed.times).toBe(1);
  });

  test("closing gives up at once what was removed a moment ago", async () => {
    const gone = closing("gone");
    const all = routes({ gone: gone.registry });
    all.set("gone", undefined);
    await all.close();
    expect(gone.closed.times).toBe(1);
  });

  test("is replaced as a whole, fallback and namespaces included, or not at all", async () => {
    const clock = fakeClock();
    const [keep, drop, next] = [closing("keep"), closing("drop"), closing("next")];
    const all = routes({ keep: keep.registry }, { clock, fallback: drop.registry, namespaces: { "docker.io": drop.registry } });
    expect(() => all.replace({ keep: keep.registry, Wrong: next.registry })).toThrow("cannot be a route");
    expect(all.forNamespace("docker.io")).toBe(drop.registry);
    all.replace({ keep: keep.registry, next: next.registry }, { namespaces: { "docker.io": next.registry } });
    expect(all.forNamespace("docker.io")).toBe(next.registry);
    await pushImage(all, "next/app", "1");
    await expect(pushImage(all, "other/app", "1")).rejects.toMatchObject({ code: "NAME_UNKNOWN" });
    await clock.advance(30_000);
    expect([keep.closed.times, drop.closed.times, next.closed.times]).toEqual([0, 1, 0]);
  });
});
