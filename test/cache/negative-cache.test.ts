import { orThrow } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { caching, down, failing, gate, minutes, settled } from "./support.js";

const unknown = digestOf(Buffer.from("unknown"));

describe("that there is none, or that it is refused,", () => {
  test.each([
    ["a tag", "1", "absent", { kind: "absent" } as const],
    ["a digest", unknown, "absent", { kind: "absent" } as const],
    ["a refused tag", "1", "denied", failing("DENIED")],
    ["a refused digest", unknown, "denied", failing("UNAUTHORIZED")],
  ])("is remembered of %s for negativeTtl, by GET and HEAD", async (_, reference, kind, answer) => {
    const { hub, calls, clock, answers } = caching({ negativeTtl: "7s" });
    answers(() => answer);
    expect((await hub.getManifest("app", reference)).kind).toBe(kind);
    expect(calls).toHaveLength(1);
    await clock.advance(6999);
    expect((await hub.getManifest("app", reference)).kind).toBe(kind);
    expect((await hub.resolveManifest("app", reference)).kind).toBe(kind);
    expect(calls).toHaveLength(1);
    await clock.advance(1);
    await hub.getManifest("app", reference);
    expect(calls).toHaveLength(2);
  });

  test("is asked once by many at a time", async () => {
    const { hub, calls } = caching();
    const answers = await Promise.all(Array.from({ length: 25 }, () => hub.getManifest("app", "1")));
    expect(new Set(answers.map(({ kind }) => kind))).toEqual(new Set(["absent"]));
    expect(calls).toEqual(["resolveManifest app 1"]);
  });

  test("is five seconds old at most by default, so that what was pushed upstream shows", async () => {
    const { hub, origin, clock } = caching();
    expect((await hub.getManifest("app", "1")).kind).toBe("absent");
    await pushImage(origin, "app", "1", makeImage([]));
    expect((await hub.getManifest("app", "1")).kind).toBe("absent");
    await clock.advance(5000);
    expect((await hub.getManifest("app", "1")).kind).toBe("found");
  });

  test("is not remembered at all with 0s", async () => {
    const { hub, calls } = caching({ negativeTtl: "0s" });
    await hub.getManifest("app", "1");
    await hub.getManifest("app", "1");
    expect(calls).toHaveLength(2);
  });

  test("does not count for a refresh, and is forgotten by what it finds", async () => {
    const { hub, origin, calls } = caching({ negativeTtl: "1h" });
    await hub.getManifest("app", "1");
    await pushImage(origin, "app", "1", makeImage([]));
    expect((await hub.refresh("app", "1")).kind).toBe("found");
    calls.length = 0;
    expect((await hub.getManifest("app", "1")).kind).toBe("found");
    expect(calls.filter((call) => call.includes(" 1"))).toEqual([]);
  });

  test("speaks of one name alone", async () => {
    const { hub, origin } = caching();
    await pushImage(origin, "app", "1", makeImage([]));
    await hub.getManifest("app", "2");
    await hub.getManifest("other", "1");
    expect((await hub.getManifest("app", "1")).kind).toBe("found");
  });

  test("is remembered of a list too", async () => {
    const { hub, calls, clock } = caching();
    for (let attempt = 0; attempt < 3; attempt++) expect((await hub.listTags("app", { limit: 10 })).kind).toBe("absent");
    expect(calls).toEqual(["listTags app"]);
    await clock.advance(5000);
    await hub.listTags("app", { limit: 10 });
    expect(calls).toHaveLength(2);
  });
});

test("that a source could not be asked is no answer: the next one asks again", async () => {
  const { hub, calls, answers } = caching({ negativeTtl: "1h" });
  answers(() => down);
  await hub.getManifest("app", "1");
  await hub.getManifest("app", unknown);
  await hub.resolveManifest("app", unknown);
  answers(() => failing("TOOMANYREQUESTS", "slow down", 5));
  expect(await hub.getManifest("app", "1")).toMatchObject({ kind: "unavailable", error: { code: "TOOMANYREQUESTS", retryAfter: 5 } });
  expect(calls).toHaveLength(4);
});

test("whoever asks first may leave, the others get the answer", async () => {
  const { hub, origin, answers, calls } = caching();
  const image = await pushImage(origin, "app", "1", makeImage([]));
  const { open, passed } = gate();
  answers(() => passed);
  const leaving = new AbortController();
  const first = hub.getManifest("app", "1", { signal: leaving.signal });
  const second = hub.getManifest("app", "1");
  await settled();
  leaving.abort(new Error("gone"));
  await expect(first).rejects.toThrow("gone");
  open();
  expect(orThrow(await second).descriptor.digest).toBe(image.digest);
  expect(calls.filter((call) => call === "resolveManifest app 1")).toHaveLength(1);
});

test("a tag that was refused is served once it is permitted, and not beyond staleIfError where it was here", async () => {
  const { hub, origin, clock, switchOff, switchOn } = caching({ staleIfError: "10m" });
  await pushImage(origin, "app", "1", makeImage([]));
  await hub.getManifest("app", "1");
  switchOff(failing("DENIED"));
  await clock.advance(minutes(9));
  expect((await hub.getManifest("app", "1")).kind).toBe("found");
  await clock.advance(minutes(1));
  expect((await hub.getManifest("app", "1")).kind).toBe("denied");
  switchOn();
  await clock.advance(5000);
  expect((await hub.getManifest("app", "1")).kind).toBe("found");
});
