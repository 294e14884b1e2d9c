import { describe, expect, it } from "vitest";
import { fakeClock } from "../../../src/testing/fake-clock.js";
import type { Fault } from "../../../src/testing/fake-upstream.js";
import { eventually } from "../../fixtures/read.js";
import { errorOf, foundIn, remoteFor, seen, upstreamFor } from "../support.js";

async function limited(fault: Fault, options = {}) {
  const clock = fakeClock();
  const upstream = await upstreamFor({ intercept: () => fault });
  for (const name of ["a", "b"]) upstream.addImage(name, "1");
  return { clock, upstream, registry: remoteFor(upstream, { clock, ...options }) };
}

describe("an upstream that asks to be left alone", () => {
  it.each([
    [429, "TOOMANYREQUESTS"],
    [503, "UNAVAILABLE"],
  ])("by %i with Retry-After is, by all requests", async (status, code) => {
    const { clock, upstream, registry } = await limited({ status, headers: { "retry-after": "30" } }, { readOnly: false });
    expect(errorOf(await registry.getManifest("a", "1"))).toMatchObject({ code, retryAfter: 30 });
    upstream.intercept = undefined;
    const error = { code, retryAfter: 30, message: expect.stringContaining("not sent") };
    expect(errorOf(await registry.resolveManifest("b", "1"))).toMatchObject(error);
    await expect(registry.startUpload("b")).rejects.toMatchObject(error);
    await clock.advance(29_001);
    expect(errorOf(await registry.listTags("b", { limit: 1 }))).toMatchObject({ code, retryAfter: 1 });
    expect(upstream.requests).toHaveLength(1);
    await clock.advance(999);
    foundIn(await registry.resolveManifest("b", "1"));
    expect(seen(upstream)).toEqual(["GET /v2/a/manifests/1", "HEAD /v2/b/manifests/1"]);
  });

  it("is for an hour at most", async () => {
    const { clock, registry } = await limited({ status: 429, headers: { "retry-after": "99999999" } });
    expect(errorOf(await registry.getManifest("a", "1")).retryAfter).toBe(3600);
    expect(registry.status().urls[0]?.retryAt).toBe(clock.now() + 3_600_000);
  });

  it("does not say for how long: from one second to a minute, until it answers", async () => {
    const { clock, upstream, registry } = await limited({ status: 429 }, { retries: 0 });
    const pauses: (number | undefined)[] = [];
    for (let asked = 0; asked < 8; asked++) {
      const { retryAfter } = errorOf(await registry.getManifest("a", "1"));
      pauses.push(retryAfter);
      await clock.advance((retryAfter ?? 0) * 1000);
    }
    expect(pauses).toEqual([1, 2, 4, 8, 16, 32, 60, 60]);
    upstream.intercept = undefined;
    foundIn(await registry.getManifest("a", "1"));
    upstream.intercept = () => ({ status: 429 });
    expect(errorOf(await registry.getManifest("a", "1")).retryAfter).toBe(1);
  });

  it("says so to several requests at once: that is one occasion", async () => {
    const { registry, upstream } = await limited({ status: 429 }, { retries: 0 });
    let arrived = 0;
    let go: () => void = () => {};
    const all = new Promise<void>((resolve) => {
      go = resolve;
    });
    upstream.intercept = async () => {
      if (++arrived === 5) go();
      await all;
      return { status: 429 };
    };
    const lookups = await Promise.all(Array.from({ length: 5 }, () => registry.getManifest("a", "1")));
    expect(lookups.map((lookup) => errorOf(lookup).retryAfter)).toEqual([1, 1, 1, 1, 1]);
  });

  it("is asked neither by those who wait for their turn", async () => {
    const { registry, upstream } = await limited({ status: 429, headers: { "retry-after": "30" } }, { maxRequests: 1 });
    let answer: () => void = () => {};
    upstream.intercept = () =>
      new Promise((resolve) => {
        answer = () => resolve({ status: 429, headers: { "retry-after": "30" } });
      });
    const lookups = [registry.getManifest("a", "1"), registry.getManifest("b", "1"), registry.getManifest("b", "1")];
    await eventually(async () => upstream.requests.length === 1, "the first request");
    expect(registry.status().urls[0]?.requests).toEqual({ running: 1, queued: 2 });
    answer();
    for (const lookup of await Promise.all(lookups)) expect(errorOf(lookup)).toMatchObject({ code: "TOOMANYREQUESTS", retryAfter: 30 });
    expect(upstream.requests).toHaveLength(1);
  });

  it("only at where a redirect leads does not concern the registry", async () => {
    const { registry, upstream } = await limited({});
    const cdn = await upstreamFor({ intercept: () => ({ status: 429, headers: { "retry-after": "30" } }) });
    upstream.intercept = ({ url }) => (url.includes("/a/") ? { redirect: `${cdn.url}/x` } : undefined);
    expect(errorOf(await registry.getManifest("a", "1"))).toMatchObject({ code: "TOOMANYREQUESTS", retryAfter: 30 });
    foundIn(await registry.getManifest("b", "1"));
  });

  it("only by a refused push does not: what is refused may be that upload", async () => {
    const { registry, upstream } = await limited({ status: 429, headers: { "retry-after": "30" } }, { readOnly: false });
    await expect(registry.startUpload("a")).rejects.toMatchObject({ code: "TOOMANYREQUESTS", retryAfter: 30 });
    upstream.intercept = ({ method }) => (method === "POST" ? { status: 503 } : undefined);
    for (let asked = 0; asked < 20; asked++) await expect(registry.startUpload("a")).rejects.toMatchObject({ code: "UNAVAILABLE" });
    foundIn(await registry.getManifest("a", "1"));
    expect(registry.status().urls[0]).toMatchObject({ breaker: "closed", reachable: true });
  });

  it("by its token endpoint is not asked for tokens", async () => {
    const { registry, upstream, clock } = await limited({});
    const auth = await upstreamFor({ auth: { kind: "bearer" } });
    auth.intercept = () => ({ status: 429, headers: { "retry-after": "30" } });
    upstream.auth = { kind: "bearer", realm: `${auth.url}/token` };
    for (let asked = 0; asked < 2; asked++) {
      expect(errorOf(await registry.getManifest("a", "1"))).toMatchObject({ code: "TOOMANYREQUESTS", retryAfter: 30 });
    }
    expect(auth.requests).toHaveLength(1);
    await clock.advance(30_000);
    await registry.getManifest("a", "1");
    expect(auth.requests).toHaveLength(2);
  });
});
