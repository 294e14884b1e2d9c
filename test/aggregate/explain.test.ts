import { cached, localRegistry, type Registry } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { failing, joined, store } from "./support.js";

const slashed = (prefix: string) => ({
  toSource: (name: string) => (name.startsWith(prefix) ? name.slice(prefix.length) : undefined),
  fromSource: (name: string) => prefix + name,
});

test("every member in order: its name, its filter's verdict, its answer, and who wins", async () => {
  const clock = fakeClock();
  const [release, blocked, other] = [store("release"), store("blocked"), store("other")];
  const image = await pushImage(release, "app", "1");
  const second = await pushImage(other, "team/app", "1");
  await pushImage(blocked, "team/app", "1");
  const slow: Registry = {
    ...store("slow"),
    async resolveManifest() {
      await clock.sleep(250);
      return { kind: "absent" };
    },
  };
  const all = joined(
    [
      { name: "slow", source: slow },
      { name: "blocked", source: blocked, allow: ["**"], block: ["x", "team/*:1"] },
      { name: "other-tags", source: other, allow: ["team/app:2-*"] },
      { name: "nowhere", source: other, rename: slashed("hub/") },
      { name: "links", source: other, reach: "links" },
      { name: "release", source: release, rename: slashed("team/"), allow: ["ap", "app:*"] },
      { name: "other", source: other },
      { name: "down", source: failing("TOOMANYREQUESTS") },
    ],
    { clock },
  );
  const asked = all.explain("team/app", "1");
  await clock.advance(250);
  const explanation = await asked;
  expect(explanation).toEqual({
    repository: "team/app",
    reference: "1",
    resolver: "firstFound",
    reserved: false,
    winner: "release",
    digest: image.digest,
    why: 'release is whom the resolver "firstFound" chose',
    members: [
      { member: "local", repository: "team/app", answer: "absent", duration: 0 },
      { member: "slow", repository: "team/app", filter: { visible: true, why: "no filter" }, answer: "absent", duration: 250 },
      {
        member: "blocked",
        repository: "team/app",
        filter: { visible: false, why: "blocked", pattern: "team/*:1" },
        answer: "not asked",
        message: "its filter hides the reference",
      },
      {
        member: "other-tags",
        repository: "team/app",
        filter: { visible: false, why: "not allowed" },
        answer: "not asked",
        message: "its filter hides the reference",
      },
      { member: "nowhere", answer: "not asked", message: "the name does not exist there" },
      { member: "links", repository: "team/app", answer: "not asked", message: "it is asked only through links" },
      {
        member: "release",
        repository: "app",
        filter: { visible: true, why: "allowed", pattern: "app:*" },
        answer: "found",
        digest: image.digest,
        path: ["release"],
        duration: 0,
      },
      {
        member: "other",
        repository: "team/app",
        filter: { visible: true, why: "no filter" },
        answer: "found",
        digest: second.digest,
        path: ["other"],
        duration: 0,
      },
      {
        member: "down",
        repository: "team/app",
        filter: { visible: true, why: "no filter" },
        answer: "unavailable",
        code: "TOOMANYREQUESTS",
        message: "no",
        duration: 0,
      },
    ],
  });
});

test("it changes nothing: no origin of a name, no digest that becomes visible", async () => {
  const release = store("release");
  const image = await pushImage(release, "app", "1");
  const storage = memoryStorage();
  const all = joined([{ name: "release", source: release, allow: ["app:*"] }], { local: localRegistry({ storage, name: "own" }) });
  expect(await all.explain("app", "1")).toMatchObject({ winner: "release" });
  for (const kind of ["nameOrigin", "reach"] as const) expect(await storage.metadata.names({ kind, under: ["own"], limit: 1 })).toEqual([]);
  expect((await all.explain("app", image.digest)).members[1]?.filter).toEqual({ visible: false, why: "no permitted tag led to it yet" });
  await all.getManifest("app", "1");
  expect((await all.explain("app", image.digest)).members[1]?.filter).toEqual({ visible: true, why: "a permitted tag led to it" });
  expect(await all.explain("app", "1")).toMatchObject({ origin: { member: "release" } });
});

test("a cache says how fresh it is; a reserved name, a failure and a bug are told", async () => {
  const clock = fakeClock();
  const release = store("release");
  await pushImage(release, "app", "1");
  const broken: Registry = { ...store("broken"), resolveManifest: () => Promise.reject(new Error("a bug")) };
  const all = joined(
    [
      { name: "hub", source: cached(release, { storage: memoryStorage(), name: "hub", clock }) },
      { name: "broken", source: broken },
    ],
    { clock, reserved: ["internal/**"] },
  );
  await all.getManifest("app", "1");
  await clock.advance(1000);
  expect((await all.explain("app", "1")).members[1]).toMatchObject({ cache: "hit", age: 1000, path: ["hub"] });
  expect(await all.explain("app", "2")).toMatchObject({
    why: 'the resolver "firstFound" answers UNAVAILABLE: broken: a bug',
    members: [{}, { answer: "absent" }, { answer: "unavailable", code: "UNKNOWN", message: "a bug" }],
  });
  expect(await all.explain("internal/app", "1")).toMatchObject({
    reserved: true,
    members: [{}, { answer: "not asked" }, { answer: "not asked" }],
  });
});
