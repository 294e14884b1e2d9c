import { type ManifestResolver, orThrow } from "oci-manifold";
import { compareLockFile, createLockFile, fromLockFile, type LockFile, strict } from "oci-manifold/resolvers";
import { beforeEach, describe, expect, test } from "vitest";
import { type Image, pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { failing, joined, store } from "./support.js";

let a = store("a");
let b = store("b");
beforeEach(() => {
  a = store("a");
  b = store("b");
});
const both = (resolver: ManifestResolver) =>
  joined(
    [
      { name: "a", source: a },
      { name: "b", source: b },
    ],
    { resolver, sticky: "off" },
  );

describe("strict", () => {
  test("members that agree answer, each asked once, the first for the bytes", async () => {
    const [left, right] = [spied(a), spied(b)];
    const image = await pushImage(a, "app", "1");
    await pushImage(b, "app", "1", image);
    const all = joined(
      [
        { name: "a", source: left.registry },
        { name: "b", source: right.registry },
      ],
      { resolver: strict },
    );
    const lookup = await all.getManifest("app", "1");
    expect([orThrow(lookup).descriptor.digest, lookup.kind === "found" && lookup.served.member]).toEqual([image.digest, ["a"]]);
    expect([left.calls, right.calls]).toEqual([["getManifest app 1"], ["resolveManifest app 1"]]);
  });

  test("members that disagree are an error that names both and their digests", async () => {
    const [first, second] = [await pushImage(a, "app", "1"), await pushImage(b, "app", "1")];
    const all = both(strict);
    for (const lookup of [await all.getManifest("app", "1"), await all.resolveManifest("app", "1")]) {
      expect(lookup).toMatchObject({
        kind: "denied",
        error: {
          code: "DENIED",
          status: 409,
          message: `members disagree on app:1: it is ${first.digest} at a, ${second.digest} at b`,
          detail: {
            members: [
              { member: "a", digest: first.digest },
              { member: "b", digest: second.digest },
            ],
          },
        },
      });
    }
    expect((await all.getManifest("app", second.digest)).kind).toBe("found");
  });

  test("the aggregate's own registry is a member like others, and absent ones do not disagree", async () => {
    const all = both(strict);
    const mine = await pushImage(all, "app", "1");
    expect(orThrow(await all.resolveManifest("app", "1")).digest).toBe(mine.digest);
    await pushImage(b, "app", "1");
    expect(await all.resolveManifest("app", "1")).toMatchObject({
      kind: "denied",
      error: { message: expect.stringContaining("at local") },
    });
    expect((await all.resolveManifest("app", "2")).kind).toBe("absent");
  });

  test.each([
    ["stop", "unavailable"],
    ["next", "found"],
  ] as const)("a member that fails, with onFailure %s: %s, wherever it is in the order", async (onFailure, kind) => {
    await pushImage(a, "app", "1");
    const down = { name: "down", source: failing("UNAVAILABLE"), onFailure };
    const up = { name: "a", source: a };
    for (const connectors of [
      [down, up],
      [up, down],
    ]) {
      const all = joined(connectors, { resolver: strict });
      expect((await all.resolveManifest("app", "1")).kind).toBe(kind);
      expect((await all.resolveManifest("app", "2")).kind).toBe("unavailable");
    }
  });
});

describe("fromLockFile", () => {
  let first: Image;
  let second: Image;
  beforeEach(async () => {
    first = await pushImage(b, "app", "1.0");
    second = await pushImage(b, "app", "1.1");
    await pushImage(b, "app", "latest");
    await pushImage(b, "other", "1");
  });

  test("lock writes what is served, as plain data", async () => {
    const written = await createLockFile(both(strict), [
      { repository: "app", tags: "1.*" },
      { repository: "other", tags: ["1"] },
    ]);
    expect(Object.keys(written)).toEqual(["app:1.0", "app:1.1", "other:1"]);
    expect(JSON.parse(JSON.stringify(written))).toEqual(written);
    expect(written["app:1.0"]).toBe(first.digest);
    await expect(createLockFile(b, [{ repository: "app", tags: "9" }])).rejects.toMatchObject({ code: "MANIFEST_UNKNOWN" });
    await expect(createLockFile(failing("UNAVAILABLE"), [{ repository: "app", tags: "*" }])).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  test("a whole tag is asked for without reading the list", async () => {
    const { registry, calls } = spied(b);
    await createLockFile(registry, [{ repository: "app", tags: ["1.0", "1.1"] }]);
    expect(calls).toEqual(["resolveManifest app 1.0", "resolveManifest app 1.1"]);
  });

  test("a tag that moved is still the pinned digest, from whichever member has it", async () => {
    const locked: LockFile = { "app:1.0": first.digest };
    await pushImage(a, "app", "1.0");
    await b.putManifest("app", "1.0", { bytes: second.manifest });
    const all = both(fromLockFile(locked));
    const lookup = await all.getManifest("app", "1.0");
    expect([orThrow(lookup).descriptor.digest, lookup.kind === "found" && lookup.served.member]).toEqual([first.digest, ["b"]]);
    expect(orThrow(await all.getManifest("app", second.digest)).descriptor.digest).toBe(second.digest);
  });

  test("what is not in the lock file is refused, or left to another resolver", async () => {
    expect(await both(fromLockFile({})).resolveManifest("app", "1.0")).toMatchObject({ kind: "denied", error: { code: "DENIED" } });
    const loose = both(fromLockFile({}, { onMissing: "otherwise", otherwise: strict }));
    expect(orThrow(await loose.resolveManifest("app", "1.0")).digest).toBe(first.digest);
    await pushImage(a, "app", "1.0");
    expect(await loose.resolveManifest("app", "1.0")).toMatchObject({ kind: "denied", error: { status: 409 } });
  });

  test("a filter on tags lets the pinned digest through where its tag is permitted, and not otherwise", async () => {
    const locked: LockFile = { "app:1.0": first.digest, "app:latest": second.digest };
    const all = joined([{ name: "b", source: b, allow: ["app:1.*"] }], { resolver: fromLockFile(locked) });
    expect(orThrow(await all.resolveManifest("app", "1.0")).digest).toBe(first.digest);
    expect((await all.resolveManifest("app", "latest")).kind).toBe("absent");
  });

  test("drift tells what moved and what is gone", async () => {
    const locked = await createLockFile(b, [{ repository: "app", tags: "*" }]);
    expect(await compareLockFile(b, locked)).toEqual([]);
    await b.putManifest("app", "1.0", { bytes: second.manifest });
    await b.deleteManifest("app", "latest");
    expect(await compareLockFile(b, locked)).toEqual([
      { repository: "app", tag: "1.0", pinned: first.digest, present: second.digest },
      { repository: "app", tag: "latest", pinned: locked["app:latest"] },
    ]);
    await expect(compareLockFile(failing("UNAVAILABLE"), locked)).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  test.each([
    ["no tag", { app: `sha256:${"0".repeat(64)}` }, "NAME_INVALID"],
    ["a bad tag", { "app:!": `sha256:${"0".repeat(64)}` }, "MANIFEST_INVALID"],
    ["a bad digest", { "app:1": "latest" }, "DIGEST_INVALID"],
  ])("a lock file with %s is refused", (_, locked, code) => {
    expect(() => fromLockFile(locked)).toThrow(expect.objectContaining({ code }));
  });
});

test("a resolver of the host's own, which asks members itself", async () => {
  const newest: ManifestResolver = {
    async resolve({ repository, reference, members }, ask) {
      for (const member of [...members].reverse())
        if ((await member.resolveManifest(repository, reference)).kind === "found") return ask(member);
      return { kind: "absent" };
    },
  };
  await pushImage(a, "app", "1");
  const image = await pushImage(b, "app", "1");
  const all = both(newest);
  expect(orThrow(await all.getManifest("app", "1")).descriptor.digest).toBe(image.digest);
  expect(await all.explain("app", "1")).toMatchObject({ resolver: "custom", winner: "b", digest: image.digest });
});
