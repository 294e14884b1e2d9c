import { type CachedOptions, orThrow } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { type recorder, site } from "../http/support.js";
import { caching, failing, minutes, whole } from "./support.js";

/** A cache over HTTP; `x-user: admin` may refresh. */
async function served(options: Partial<CachedOptions> = {}) {
  const all = caching(options);
  const image = await pushImage(all.origin, "app", "1", makeImage([10]));
  const requests: string[] = [];
  const { fetch } = await site(all.hub, {
    cacheStatus: true,
    caller: ({ headers }) => (typeof headers["x-user"] === "string" ? { name: headers["x-user"] } : undefined),
    authorize: ({ action, caller }) => {
      requests.push(action);
      return action === "pull" || (action === "refresh" && caller?.name === "admin");
    },
  });
  const status = async (path: string, init?: RequestInit) => {
    const answer = await fetch(path, init);
    const body = Buffer.from(await answer.arrayBuffer());
    const digest = answer.headers.get("docker-content-digest");
    return {
      status: answer.status,
      cache: answer.headers.get("cache-status"),
      warning: answer.headers.get("warning"),
      digest,
      body,
      answer,
    };
  };
  return { ...all, image, fetch, status, requests };
}

const manifest = "/v2/app/manifests/1";

describe("Cache-Status and Warning", () => {
  test("tell a miss, a hit and how long it is good, and a stale answer", async () => {
    const { status, clock, switchOff, image, hub } = await served();
    expect(await status(manifest)).toMatchObject({ status: 200, cache: '"hub/origin"; fwd=miss', warning: null });
    await whole(hub, "app", "1");
    await clock.advance(minutes(1));
    expect(await status(manifest)).toMatchObject({ cache: '"hub"; hit; ttl=240', warning: null });
    expect(await status(manifest, { method: "HEAD" })).toMatchObject({ cache: '"hub"; hit; ttl=240' });
    expect(await status(`/v2/app/manifests/${image.digest}`)).toMatchObject({ cache: '"hub"; hit' });
    expect(await status(`/v2/app/blobs/${image.config.digest}`)).toMatchObject({ status: 200, cache: '"hub"; hit' });
    await clock.advance(minutes(5));
    switchOff(failing("TOOMANYREQUESTS", "slow down", 30));
    expect(await status(manifest)).toMatchObject({
      status: 200,
      cache: '"hub"; hit; ttl=-60',
      warning: '299 - "this may be outdated"',
    });
    expect(await status("/v2/app/tags/list")).toMatchObject({ status: 200, warning: expect.stringContaining("only what is stored here") });
  });

  test("are absent unless asked for, and for what no cache answered", async () => {
    const { hub, origin } = caching();
    await pushImage(origin, "app", "1", makeImage([10]));
    const quiet = await site(hub);
    expect((await quiet.fetch(manifest)).headers.get("cache-status")).toBeNull();
    const direct = await site(origin, { cacheStatus: true });
    expect((await direct.fetch(manifest)).headers.get("cache-status")).toBeNull();
  });

  test("name what a deleted tag is kept for", async () => {
    const { status, clock, origin } = await served({ deletedTags: "keep" });
    await status(manifest);
    await origin.deleteManifest("app", "1");
    await clock.advance(minutes(5));
    expect(await status(manifest)).toMatchObject({
      status: 200,
      cache: '"hub"; hit; ttl=300',
      warning: expect.stringContaining("kept here"),
    });
  });
});

describe.each([
  ["TOOMANYREQUESTS", 429, "7"],
  ["UNAVAILABLE", 503, "7"],
  ["UNAUTHORIZED", 401, "7"],
  ["DENIED", 403, "7"],
] as const)("a source that answers %s", (code, expected, retryAfter) => {
  test(`is ${expected} with Retry-After where nothing is here`, async () => {
    const { status, switchOff } = await served();
    switchOff(failing(code, "why", 7));
    const answer = await status(manifest);
    expect([answer.status, answer.answer.headers.get("retry-after")]).toEqual([expected, retryAfter]);
  });
});

describe("Cache-Control: no-cache", () => {
  const noCache = { "cache-control": "no-cache" };

  test("has the source asked now, for whoever may", async () => {
    const { status, origin, image, calls, requests, hub } = await served();
    await status(manifest);
    await whole(hub, "app", "1");
    const next = await pushImage(origin, "app", "1", makeImage([20]));
    calls.length = 0;
    requests.length = 0;
    expect(await status(manifest, { headers: noCache })).toMatchObject({ digest: image.digest, cache: '"hub"; hit; ttl=300' });
    expect(await status(manifest, { headers: { ...noCache, "x-user": "somebody" } })).toMatchObject({ digest: image.digest });
    expect(calls).toEqual([]);
    expect(await status(manifest, { method: "HEAD", headers: { ...noCache, "x-user": "admin" } })).toMatchObject({
      status: 200,
      digest: next.digest,
    });
    expect(calls[0]).toBe("resolveManifest app 1");
    expect(requests).toEqual(["pull", "refresh", "pull", "refresh", "pull", "refresh"]);
    expect(await status(manifest)).toMatchObject({ digest: next.digest, cache: '"hub"; hit; ttl=300' });
  });

  test("asks nothing about a digest, and without the header nobody is asked for permission", async () => {
    const { status, image, calls, requests, hub } = await served();
    await status(manifest);
    await whole(hub, "app", "1");
    calls.length = 0;
    await status(`/v2/app/manifests/${image.digest}`, { headers: { ...noCache, "x-user": "admin" } });
    await status(manifest, { headers: { "cache-control": "max-age=0" } });
    expect(calls).toEqual([]);
    expect(requests).not.toContain("refresh");
  });

  test("is refused by the default policy, which cannot know who administers", async () => {
    const { hub, origin, calls } = caching();
    await pushImage(origin, "app", "1", makeImage([]));
    orThrow(await hub.getManifest("app", "1"));
    await whole(hub, "app", "1");
    calls.length = 0;
    const { fetch } = await site(hub, {});
    expect((await fetch(manifest, { headers: noCache })).status).toBe(200);
    expect(calls).toEqual([]);
  });
});

test("events name tag, age and reason of what was served stale", async () => {
  const { status, clock, switchOff, sink } = await served();
  await status(manifest);
  await clock.advance(minutes(10));
  switchOff();
  const { body, digest } = await status(manifest);
  expect(digestOf(body)).toBe(digest);
  const stale: ReturnType<ReturnType<typeof recorder>["of"]> = sink.of("stale");
  expect(stale).toEqual([
    {
      time: clock.now(),
      registry: "hub",
      repository: "app",
      tag: "1",
      why: "stale",
      age: minutes(10),
      message: "the source could not be asked: connection refused",
    },
  ]);
});
