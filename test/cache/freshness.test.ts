import { orThrow } from "oci-manifold";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { eventually } from "../fixtures/read.js";
import { caching, down, failing, gate, minutes, settled, warmed } from "./support.js";

describe("a tag", () => {
  test("is served without a question until it is as old as tagTtl, and says how old it is", async () => {
    const { hub, clock, calls } = await warmed({ tagTtl: "10m" });
    await clock.advance(minutes(4));
    const served = { cache: "hit", age: minutes(4), ttl: minutes(6), member: ["hub"] };
    expect(await hub.getManifest("app", "1")).toMatchObject({ kind: "found", served });
    expect(await hub.resolveManifest("app", "1")).toMatchObject({ kind: "found", served });
    await clock.advance(minutes(6) - 1);
    await hub.getManifest("app", "1");
    expect(calls).toEqual([]);
    await clock.advance(1);
    expect(await hub.getManifest("app", "1")).toMatchObject({ served: { cache: "hit", age: 0, ttl: minutes(10) } });
    expect(calls).toEqual(["resolveManifest app 1"]);
  });

  test("with tagTtl 0s is asked for every time, by HEAD alone", async () => {
    const { hub, calls } = await warmed({ tagTtl: "0s" });
    for (let pull = 0; pull < 3; pull++) orThrow(await hub.getManifest("app", "1"));
    expect(calls).toEqual(Array(3).fill("resolveManifest app 1"));
  });

  test("that moved back to a digest that is here costs no GET", async () => {
    const { hub, origin, clock, calls, image } = await warmed();
    await pushImage(origin, "app", "1", makeImage([20]));
    await clock.advance(minutes(5));
    orThrow(await hub.getManifest("app", "1"));
    await origin.putManifest("app", "1", { bytes: image.manifest });
    await clock.advance(minutes(5));
    calls.length = 0;
    expect(orThrow(await hub.getManifest("app", "1")).descriptor.digest).toBe(image.digest);
    expect(calls).toEqual(["resolveManifest app 1"]);
  });

  test("confirmed while a question waited is not asked for again", async () => {
    const { hub, calls, clock } = await warmed();
    await clock.advance(minutes(5));
    await Promise.all(
      Array.from({ length: 30 }, (_, index) => (index % 2 ? hub.getManifest("app", "1") : hub.resolveManifest("app", "1"))),
    );
    expect(calls).toEqual(["resolveManifest app 1"]);
  });

  test("keeps its age across a restart, also where a crash came before the record of it", async () => {
    const { restart, storage, clock, calls } = await warmed();
    await clock.advance(minutes(3));
    expect(await restart().getManifest("app", "1")).toMatchObject({ served: { cache: "hit", age: minutes(3) } });
    await storage.metadata.commit([], [{ remove: { kind: "freshness", parts: ["hub", "app", "1"] } }]);
    expect(await restart().getManifest("app", "1")).toMatchObject({ served: { cache: "hit", age: minutes(3) } });
    expect(calls).toEqual([]);
  });
});

test("a digest is asked for once and never again, however old it is", async () => {
  const { hub, clock, calls, image, switchOff } = await warmed();
  await clock.advance(minutes(60 * 24 * 365));
  expect(await hub.getManifest("app", image.digest)).toEqual({
    kind: "found",
    value: expect.anything(),
    served: { member: ["hub"], cache: "hit" },
  });
  orThrow(await hub.resolveManifest("app", image.digest));
  orThrow(await hub.getManifest("app", image.digest, { refresh: true }));
  switchOff();
  orThrow(await hub.getManifest("app", image.digest));
  expect(calls).toEqual([]);
});

test("HEAD of a digest that is not here is passed on, one for all who ask at once, and counts no pull", async () => {
  const { hub, origin, calls } = caching();
  const image = await pushImage(origin, "app", "1", makeImage([]));
  const heads = await Promise.all(Array.from({ length: 10 }, () => hub.resolveManifest("app", image.digest)));
  for (const head of heads) expect(head).toMatchObject({ kind: "found", served: { member: ["hub", "origin"], cache: "miss" } });
  expect(calls).toEqual([`resolveManifest app ${image.digest}`]);
});

describe("stale while revalidate", () => {
  const options = { staleWhileRevalidate: "10m" } as const;

  test("serves the old one at once with a warning, and the new one once it is here", async () => {
    const { hub, origin, clock, answers, calls, image, sink } = await warmed(options);
    const next = await pushImage(origin, "app", "1", makeImage([30]));
    await clock.advance(minutes(6));
    const { open, passed } = gate();
    answers(() => passed);
    for (let pull = 0; pull < 3; pull++) {
      expect(await hub.getManifest("app", "1")).toMatchObject({
        value: { descriptor: { digest: image.digest } },
        served: { cache: "stale", age: minutes(6), ttl: -minutes(1), warnings: [expect.stringContaining("being confirmed")] },
      });
    }
    await settled();
    expect(calls).toEqual(["resolveManifest app 1"]);
    expect(sink.of("stale")).toHaveLength(3);
    open();
    await eventually(async () => (await hub.completeness("app", "1")).complete, "the new one is here");
    await settled();
    expect(await hub.getManifest("app", "1")).toMatchObject({ value: { descriptor: { digest: next.digest } }, served: { cache: "hit" } });
  });

  test("waits for the answer once the time is over", async () => {
    const { hub, origin, clock } = await warmed(options);
    const next = await pushImage(origin, "app", "1", makeImage([30]));
    await clock.advance(minutes(15));
    expect(orThrow(await hub.getManifest("app", "1")).descriptor.digest).toBe(next.digest);
  });

  test("does not lose a failure of the question in the background", async () => {
    const { hub, clock, switchOff, sink } = await warmed(options);
    await clock.advance(minutes(6));
    switchOff(failing("UNAVAILABLE", "connection refused"));
    orThrow(await hub.getManifest("app", "1"));
    await settled();
    expect(sink.of("stale").map(({ message }) => message)).toEqual([
      "it is being confirmed",
      "the source could not be asked: connection refused",
    ]);
  });

  test("nor one that leaves nothing to serve", async () => {
    const { hub, clock, switchOff, sink } = await warmed({ ...options, staleIfError: "1m" });
    await clock.advance(minutes(6));
    switchOff(failing("DENIED", "no longer yours"));
    orThrow(await hub.getManifest("app", "1"));
    await settled();
    expect(sink.of("fault")).toMatchObject([{ registry: "hub", message: "app:1 could not be confirmed: no longer yours" }]);
  });

  test("nor one that throws", async () => {
    const { hub, clock, answers, sink } = await warmed(options);
    await clock.advance(minutes(6));
    answers(() => Promise.reject(new Error("a bug")));
    orThrow(await hub.getManifest("app", "1"));
    await settled();
    expect(sink.of("fault")).toMatchObject([{ message: "app:1 could not be confirmed: a bug" }]);
  });
});

describe("a source that cannot be asked", () => {
  test.each([
    ["is down", down],
    ["asks for fewer requests", failing("TOOMANYREQUESTS", "slow down", 30)],
    ["takes the credentials no more", failing("UNAUTHORIZED", "bad password")],
    ["refuses", failing("DENIED", "not yours")],
  ])("because it %s leaves what is here, with a warning and an event", async (_, failure) => {
    const { hub, clock, switchOff, sink, image } = await warmed();
    await clock.advance(minutes(7));
    switchOff(failure);
    const why = failure.kind === "found" || failure.kind === "absent" || failure.kind === "linked" ? "" : failure.error.message;
    expect(await hub.getManifest("app", "1")).toMatchObject({
      kind: "found",
      value: { descriptor: { digest: image.digest } },
      served: { cache: "stale", age: minutes(7), ttl: -minutes(2), warnings: [expect.stringContaining(why)] },
    });
    expect(sink.of("stale")).toMatchObject([
      { registry: "hub", repository: "app", tag: "1", why: "stale", age: minutes(7), message: expect.stringContaining(why) },
    ]);
  });

  test("is believed after staleIfError", async () => {
    const { hub, clock, switchOff, switchOn } = await warmed({ staleIfError: "1h" });
    switchOff(failing("TOOMANYREQUESTS", "slow down", 30));
    await clock.advance(minutes(60) - 1);
    expect((await hub.getManifest("app", "1")).kind).toBe("found");
    await clock.advance(1);
    expect(await hub.getManifest("app", "1")).toMatchObject({ kind: "unavailable", error: { code: "TOOMANYREQUESTS", retryAfter: 30 } });
    switchOn();
    expect(await hub.getManifest("app", "1")).toMatchObject({ kind: "found", served: { cache: "hit", age: 0 } });
  });

  test.each([
    ["cannot be asked", down],
    ["refuses", failing("DENIED", "pull limit of manifests")],
    ["says that there is none", { kind: "absent" } as const],
  ])("when the new digest is wanted, and %s, leaves the old one", async (_, failure) => {
    const { hub, origin, clock, answers, sink, image } = await warmed();
    await pushImage(origin, "app", "1", makeImage([40]));
    await clock.advance(minutes(6));
    answers(({ text }) => (text.startsWith("getManifest") ? failure : undefined));
    expect(await hub.getManifest("app", "1")).toMatchObject({
      value: { descriptor: { digest: image.digest } },
      served: { cache: "stale" },
    });
    expect(sink.of("stale")).toHaveLength(1);
  });

  test("is asked again by the next pull, so a recovery shows at once", async () => {
    const { hub, clock, switchOff, switchOn, calls } = await warmed();
    await clock.advance(minutes(6));
    switchOff();
    await hub.getManifest("app", "1");
    await hub.getManifest("app", "1");
    switchOn();
    expect(await hub.getManifest("app", "1")).toMatchObject({ served: { cache: "hit", age: 0 } });
    expect(calls).toEqual(Array(3).fill("resolveManifest app 1"));
  });
});
