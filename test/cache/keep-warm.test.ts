import { orThrow, type WarmPlan } from "oci-manifold";
import { expect, test } from "vitest";
import { keepWarm } from "../../src/cache/keep-warm.js";
import { makeImage, pushImage } from "../fixtures/images.js";
import { eventually } from "../fixtures/read.js";
import { caching, down, failing, minutes } from "./support.js";

/** A plan that runs until the test stops it. */
function running(all: ReturnType<typeof caching>, plan: Omit<WarmPlan, "signal" | "every"> & Partial<WarmPlan>) {
  const stopping = new AbortController();
  const over = all.hub.keepWarm({ every: "1h", signal: stopping.signal, ...plan });
  return { over, stop: () => stopping.abort() };
}

const complete = (all: ReturnType<typeof caching>, repository: string, tag: string) =>
  eventually(
    async () => (await all.hub.completeness(repository, tag).catch(() => undefined))?.complete === true,
    `${repository}:${tag} is warm`,
  );

test("brings the tags of its patterns, and again after `every`", async () => {
  const all = caching();
  const { origin, hub, clock, calls } = all;
  for (const tag of ["22-alpine", "22-slim", "20-slim"]) await pushImage(origin, "library/node", tag, makeImage([10]));
  await pushImage(origin, "library/alpine", "latest", makeImage([10]));
  await pushImage(origin, "library/alpine", "3", makeImage([10]));
  const seen: string[] = [];
  const { over, stop } = running(all, {
    images: ["library/node:22-*", "library/alpine"],
    progress: ({ repository, reference }) => void seen.push(`${repository}:${reference}`),
  });
  for (const [repository, tag] of [
    ["library/node", "22-alpine"],
    ["library/node", "22-slim"],
    ["library/alpine", "latest"],
  ] as const)
    await complete(all, repository, tag);
  await eventually(async () => (await hub.status()).fills.running === 0, "the round is over");
  expect(new Set(seen)).toEqual(new Set(["library/node:22-alpine", "library/node:22-slim", "library/alpine:latest"]));
  await expect(hub.completeness("library/node", "20-slim")).rejects.toMatchObject({ code: "MANIFEST_UNKNOWN" });
  const next = await pushImage(origin, "library/node", "22-slim", makeImage([20]));
  await pushImage(origin, "library/node", "22-trixie", makeImage([20]));
  calls.length = 0;
  await clock.advance(minutes(60) - 1);
  expect(calls).toEqual([]);
  await eventually(async () => {
    await clock.advance(1);
    return calls.length > 0;
  }, "the next round");
  await complete(all, "library/node", "22-trixie");
  expect(orThrow(await hub.getManifest("library/node", "22-slim")).descriptor.digest).toBe(next.digest);
  stop();
  await over;
});

test("survives failures, tells them by name and tries again in the next round", async () => {
  const all = caching({ negativeTtl: "0s" });
  const { origin, clock, answers, switchOn, sink } = all;
  await pushImage(origin, "one", "1", makeImage([10]));
  await pushImage(origin, "two", "1", makeImage([10]));
  answers(({ repository }) => (repository === "one" ? down : undefined));
  const { over, stop } = running(all, { images: ["one:1", "none:*", "two:1"] });
  await complete(all, "two", "1");
  expect(sink.of("fault").map(({ message }) => message)).toEqual([
    "one:1 could not be kept warm: one 1: 1 could not be brought: connection refused",
    "none could not be kept warm: not found",
  ]);
  switchOn();
  await eventually(async () => {
    await clock.advance(minutes(60));
    return (await all.hub.completeness("one", "1").catch(() => undefined))?.complete === true;
  }, "the next round brings it");
  stop();
  await over;
});

test("of a registry that lists nothing takes tags that are named, and patterns over what is here", async () => {
  const all = caching();
  const { origin, answers, sink, hub } = all;
  for (const tag of ["1", "2"]) await pushImage(origin, "app", tag, makeImage([10]));
  answers(({ text }) => (text.startsWith("listTags") ? failing("UNSUPPORTED", "no lists here") : undefined));
  const named = running(all, { images: ["app:1", "app:*"] });
  await complete(all, "app", "1");
  await eventually(async () => (await hub.status()).fills.running === 0, "quiet");
  named.stop();
  await named.over;
  expect(sink.of("fault")).toEqual([]);
  await expect(hub.completeness("app", "2")).rejects.toMatchObject({ code: "MANIFEST_UNKNOWN" });
});

test("ends with the signal, in the middle of an image, and with the cache", async () => {
  const all = caching();
  await pushImage(all.origin, "app", "1", makeImage([10]));
  all.answers(({ text }) => (text.startsWith("getBlob") ? new Promise(() => {}) : undefined));
  const { over, stop } = running(all, { images: ["app:1"] });
  await eventually(async () => all.calls.some((call) => call.startsWith("getBlob")), "in the middle");
  stop();
  await over;
  await expect(all.hub.keepWarm({ images: ["app"], every: "1h", signal: AbortSignal.abort() })).resolves.toBeUndefined();
  const other = caching();
  const until = running(other, { images: ["app"] });
  await other.hub.close();
  await until.over;
  expect(all.sink.of("fault")).toEqual([]);
});

/** A cache whose repository has more tags than anybody can look at, which stops the plan with the n-th question. */
function endless(stopAt: number) {
  const { hub } = caching();
  const stopping = new AbortController();
  const requests: string[] = [];
  const ask = (what: string) => {
    if (requests.push(what) === stopAt) stopping.abort();
  };
  const cache = {
    ...hub,
    listTags: async (_: string, { after = "0", limit }: { after?: string; limit: number }) => {
      ask("listTags");
      const items = Array.from({ length: limit }, (_, index) => `v${Number(after) * limit + index}`);
      return { kind: "found" as const, value: { items, next: `${Number(after) + 1}` }, served: { member: ["hub"] } };
    },
    warm: async (_: string, tag: string) => {
      ask(tag);
      return { complete: true, missing: [] };
    },
  };
  const run = (image: string) => keepWarm(cache, { images: [image], every: "1h", signal: stopping.signal }, { name: "hub" });
  return { run, requests };
}

test("that is ended among many tags warms no other one, and asks for no more tags", async () => {
  const among = endless(1500);
  await among.run("app:*");
  expect(among.requests).toHaveLength(1500);
  expect(among.requests.filter((what) => what === "listTags")).toHaveLength(2);
  const none = endless(3);
  await none.run("app:w*");
  expect(none.requests).toEqual(["listTags", "listTags", "listTags"]);
});

test("lets timers have their turn while it looks for tags that its patterns do not match", async () => {
  const { run } = endless(20);
  let ticks = 0;
  const ticking = setInterval(() => void ticks++, 1);
  await run("app:w*").finally(() => clearInterval(ticking));
  expect(ticks).toBeGreaterThan(2);
});

test.each(["App:1", "app:", "app:§", "/app"])("%j is refused", async (image) => {
  const { hub } = caching();
  const plan = { images: [image], every: "1h", signal: new AbortController().signal } as const;
  await expect(hub.keepWarm(plan)).rejects.toMatchObject({ code: "NAME_INVALID" });
});
