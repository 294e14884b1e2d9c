import { aggregate, localRegistry, orThrow } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { recorder } from "../http/support.js";
import { store } from "./support.js";

const setting = (sticky: "off" | "warn" | "refuse", storage = memoryStorage()) => {
  const clock = fakeClock();
  const events = recorder();
  const [ours, theirs] = [store("ours"), store("theirs")];
  const connectors = [
    { name: "ours", source: ours },
    { name: "theirs", source: theirs },
  ];
  const make = () => aggregate({ local: localRegistry({ storage, name: "own" }), connectors, sticky, clock, events });
  return { clock, events, ours, theirs, storage, connectors, make, all: make() };
};

test("warn: another member that has a name too is told once, and served", async () => {
  const { all, ours, theirs, events, clock } = setting("warn");
  await pushImage(ours, "app", "1");
  const taken = await pushImage(theirs, "app", "99");
  const since = clock.now();
  orThrow(await all.getManifest("app", "1"));
  await clock.advance(5);
  for (const _ of [1, 2]) expect(orThrow(await all.resolveManifest("app", "99")).digest).toBe(taken.digest);
  expect(events.of("conflict")).toEqual([
    {
      time: since + 5,
      registry: "local own",
      repository: "app",
      reference: "99",
      member: "theirs",
      origin: "ours",
      since,
      refused: false,
    },
  ]);
});

test("refuse: it is DENIED, naming both, also after a restart; by digest no name is at stake", async () => {
  const { all, make, ours, theirs, events } = setting("refuse");
  await pushImage(ours, "app", "1");
  const taken = await pushImage(theirs, "app", "99");
  orThrow(await all.getManifest("app", "1"));
  for (const registry of [all, make()]) {
    expect(await registry.getManifest("app", "99")).toMatchObject({
      kind: "denied",
      error: { code: "DENIED", status: 403, message: expect.stringMatching(/served from ours since 2026-01-01.*theirs claims it/) },
    });
    expect((await registry.getManifest("app", taken.digest)).kind).toBe("found");
    expect(await registry.explain("app", "99")).toMatchObject({
      origin: { member: "ours" },
      why: expect.stringContaining("theirs is refused"),
    });
  }
  expect(events.of("conflict")).toMatchObject([{ refused: true }, { refused: true }]);
});

test("a private name that only this registry had is not taken by a connector", async () => {
  const { all, theirs } = setting("refuse");
  await pushImage(all, "internal/app", "1");
  await pushImage(theirs, "internal/app", "99");
  orThrow(await all.getManifest("internal/app", "1"));
  expect(await all.getManifest("internal/app", "99")).toMatchObject({
    kind: "denied",
    error: { message: expect.stringContaining("local") },
  });
});

test("what is pushed here is never refused, only told", async () => {
  const { all, ours, events } = setting("refuse");
  await pushImage(ours, "app", "1");
  orThrow(await all.getManifest("app", "1"));
  const mine = await pushImage(all, "app", "2");
  expect(orThrow(await all.getManifest("app", "2")).descriptor.digest).toBe(mine.digest);
  expect(events.of("conflict")).toMatchObject([{ member: "local", origin: "ours", refused: false }]);
  expect((await all.getManifest("app", "1")).kind).toBe("found");
});

test("a name whose member was removed is free", async () => {
  const { all, ours, theirs, connectors, events } = setting("refuse");
  await pushImage(ours, "app", "1");
  const next = await pushImage(theirs, "app", "1");
  orThrow(await all.getManifest("app", "1"));
  await all.setConnectors(connectors.slice(1));
  expect(orThrow(await all.getManifest("app", "1")).descriptor.digest).toBe(next.digest);
  await all.setConnectors(connectors);
  expect(await all.getManifest("app", "1")).toMatchObject({
    kind: "denied",
    error: { message: expect.stringContaining("served from theirs") },
  });
  expect(events.of("conflict")).toHaveLength(1);
});

test("off: nothing is remembered; a name is read from the store once", async () => {
  const off = setting("off");
  await pushImage(off.ours, "app", "1");
  orThrow(await off.all.getManifest("app", "1"));
  expect(await off.storage.metadata.names({ kind: "nameOrigin", under: ["own"], limit: 10 })).toEqual([]);

  const storage = memoryStorage();
  const { registry: metadata, calls } = spied(storage.metadata as never);
  const warn = setting("warn", { ...storage, metadata: metadata as never });
  await pushImage(warn.ours, "app", "1");
  orThrow(await warn.all.getManifest("app", "1"));
  calls.length = 0;
  orThrow(await warn.all.getManifest("app", "1"));
  expect(calls.filter((call) => call.startsWith("commit"))).toEqual([]);
});
