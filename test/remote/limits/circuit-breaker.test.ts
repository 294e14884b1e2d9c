import { describe, expect, it } from "vitest";
import { CircuitBreaker } from "../../../src/remote/limits/circuit-breaker.js";
import { fakeClock } from "../../../src/testing/fake-clock.js";
import type { Fault } from "../../../src/testing/fake-upstream.js";
import { eventually } from "../../fixtures/read.js";
import { errorOf, foundIn, remoteFor, seen, upstreamFor } from "../support.js";

function breaker() {
  const clock = fakeClock();
  const one = new CircuitBreaker(clock, { failures: 5, openFor: 10_000 });
  const fail = async (times: number, apart = 0) => {
    for (let failed = 0; failed < times; failed++) {
      one.enter().failed();
      await clock.advance(apart);
    }
  };
  return { clock, one, fail };
}

describe("a breaker", () => {
  it("opens after five failures in a row within two seconds or more", async () => {
    const { one, fail } = breaker();
    await fail(4, 500);
    expect(one.state).toBe("closed");
    await fail(1);
    expect(one.state).toBe("open");
  });

  it("opens after ten at once", async () => {
    const { one, fail } = breaker();
    await fail(9);
    expect(one.state).toBe("closed");
    await fail(1);
    expect([one.state, one.wait]).toEqual(["open", 10_000]);
  });

  it("begins to count anew after a success, not after what says nothing", async () => {
    const { one, fail } = breaker();
    await fail(9);
    one.enter().abandoned();
    one.enter().succeeded();
    await fail(9);
    expect(one.state).toBe("closed");
  });

  it("lets one probe at a time through, and stays open longer each time it fails, up to two minutes", async () => {
    const { clock, one, fail } = breaker();
    await fail(10);
    const waits: number[] = [];
    for (let probes = 0; probes < 6; probes++) {
      waits.push(one.wait);
      await clock.advance(one.wait);
      expect([one.state, one.wait]).toEqual(["half-open", 0]);
      const probe = one.enter();
      expect(one.wait).toBe(1000);
      probe.failed();
    }
    expect(waits).toEqual([10_000, 20_000, 40_000, 80_000, 120_000, 120_000]);
    await clock.advance(one.wait);
    one.enter().abandoned();
    expect(one.wait).toBe(0);
    one.enter().succeeded();
    expect(one.state).toBe("closed");
    await fail(10);
    expect(one.wait).toBe(10_000);
  });

  it("does not listen to requests that began before it opened", async () => {
    const { clock, one, fail } = breaker();
    const early = [one.enter(), one.enter()];
    await fail(10);
    early[0]?.succeeded();
    expect(one.state).toBe("open");
    await clock.advance(10_000);
    early[1]?.failed();
    expect(one.state).toBe("half-open");
  });
});

async function failing(fault: Fault, options = {}) {
  const clock = fakeClock();
  const upstream = await upstreamFor({ intercept: () => fault });
  upstream.addImage("a", "1");
  /** What clients asked for. */
  const pulls = () => seen(upstream).filter((request) => request !== probe);
  const probes = () => seen(upstream).filter((request) => request === probe).length;
  return { clock, upstream, pulls, probes, registry: remoteFor(upstream, { clock, retries: 0, ...options }) };
}

const probe = "GET /v2/";

describe("an upstream that fails", () => {
  it.each<[string, Fault]>([
    ["a broken connection", { hangUp: true }],
    ["500", { status: 500 }],
    ["503", { status: 503 }],
  ])("with %s is left alone, then asked by one request at a time", async (_, fault) => {
    const { clock, upstream, pulls, registry } = await failing(fault);
    for (let asked = 0; asked < 10; asked++) await registry.getManifest("a", "1");
    expect(pulls()).toHaveLength(10);
    const refused = errorOf(await registry.getManifest("a", "1"));
    expect(refused).toMatchObject({ code: "UNAVAILABLE", retryAfter: 10, message: expect.stringContaining("not sent") });
    expect(pulls()).toHaveLength(10);
    expect(registry.status().urls[0]).toMatchObject({ breaker: "open", reachable: false, retryAt: clock.now() + 10_000 });
    await clock.advance(10_000);
    expect(registry.status().urls[0]?.breaker).toBe("half-open");
    let answer: () => void = () => {};
    upstream.intercept = ({ url }) =>
      url === "/v2/"
        ? fault
        : new Promise((resolve) => {
            answer = () => resolve(undefined);
          });
    const asking = registry.getManifest("a", "1");
    await eventually(async () => pulls().length === 11, "the one request");
    expect(errorOf(await registry.getManifest("a", "1")).retryAfter).toBe(1);
    upstream.intercept = undefined;
    answer();
    foundIn(await asking);
    foundIn(await registry.getManifest("a", "1"));
    expect(pulls()).toHaveLength(12);
    expect(registry.status().urls[0]).toMatchObject({ breaker: "closed", reachable: true });
  });

  it("ends the waiting of those in the queue", async () => {
    const { upstream, registry } = await failing({ status: 500 }, { maxRequests: 1, breaker: { failures: 1 } });
    const lookups = await Promise.all([1, 2, 3, 4].map(() => registry.getManifest("a", "1")));
    expect(lookups.map((lookup) => errorOf(lookup).message.includes("not sent"))).toEqual([false, false, true, true]);
    expect(upstream.requests).toHaveLength(2);
  });

  it.each<[string, Fault]>([
    ["404", { status: 404 }],
    ["401", { status: 401 }],
    ["501", { status: 501 }],
    ["408", { status: 408 }],
  ])("is not one that answers %s", async (_, fault) => {
    const { upstream, registry } = await failing(fault);
    for (let asked = 0; asked < 12; asked++) await registry.getManifest("a", "1");
    expect(upstream.requests).toHaveLength(12);
  });

  it("is asked again and again when there is to be no breaker", async () => {
    const { upstream, registry } = await failing({ status: 500 }, { breaker: false });
    for (let asked = 0; asked < 12; asked++) await registry.getManifest("a", "1");
    expect(upstream.requests).toHaveLength(12);
    expect(registry.status().urls[0]).toMatchObject({ breaker: "closed", reachable: false });
  });

  it("has its own numbers, but for the time to the next question in the background", async () => {
    const { upstream, registry, clock } = await failing({ status: 500 }, { breaker: { failures: 1, openFor: "5m" } });
    for (let asked = 0; asked < 3; asked++) await registry.getManifest("a", "1");
    expect(upstream.requests).toHaveLength(2);
    expect(registry.status().urls[0]?.retryAt).toBe(clock.now() + 300_000);
    expect(errorOf(await registry.getManifest("a", "1")).retryAfter).toBe(10);
  });

  it.each<[string, Fault]>([
    ["200", { status: 200 }],
    ["401", { status: 401 }],
    ["404", { status: 404 }],
  ])("is used again within ten seconds of answering %s, though nobody asks", async (_, fault) => {
    const { clock, upstream, registry, pulls } = await failing({ status: 503, headers: { "retry-after": "1" } });
    for (let asked = 0; asked < 12; asked++) {
      await registry.getManifest("a", "1");
      await clock.advance(1000);
    }
    for (let minutes = 0; minutes < 3; minutes++) {
      await clock.advance(60_000);
      await registry.getManifest("a", "1");
    }
    expect(registry.status().urls[0]?.breaker).toBe("open");
    upstream.intercept = ({ url }) => (url === "/v2/" ? fault : undefined);
    const before = pulls().length;
    await clock.advance(10_000);
    await eventually(async () => registry.status().urls[0]?.breaker === "closed", "the breaker to close");
    expect(pulls()).toHaveLength(before);
    expect(registry.status().urls[0]).toMatchObject({ reachable: true });
    foundIn(await registry.getManifest("a", "1"));
  });

  it("opens again with the first failure when only its root answers", async () => {
    const { clock, upstream, registry, pulls } = await failing({ status: 500 });
    for (let asked = 0; asked < 10; asked++) await registry.getManifest("a", "1");
    upstream.intercept = ({ url }) => (url === "/v2/" ? undefined : { status: 500 });
    await clock.advance(9500);
    await eventually(async () => registry.status().urls[0]?.breaker === "closed", "the breaker to close");
    const before = pulls().length;
    for (let asked = 0; asked < 5; asked++) await registry.getManifest("a", "1");
    expect(pulls()).toHaveLength(before + 1);
    expect(registry.status().urls[0]?.breaker).toBe("open");
  });

  it("is not asked in the background when it wants to be left alone", async () => {
    const { clock, probes, registry } = await failing(
      { status: 503, headers: { "retry-after": "60" } },
      { breaker: { failures: 1, openFor: "5m" } },
    );
    await registry.getManifest("a", "1");
    await clock.advance(60_000);
    await registry.getManifest("a", "1");
    expect(registry.status().urls[0]?.breaker).toBe("open");
    await clock.advance(50_000);
    expect(probes()).toBe(0);
  });

  it("is not one whose storage, where a redirect leads, fails; nor one whose caller leaves", async () => {
    const { upstream, registry } = await failing({ redirect: "http://127.0.0.1:1/" });
    for (let asked = 0; asked < 12; asked++) await registry.getManifest("a", "1");
    upstream.intercept = () => ({ delay: 60_000 });
    for (let asked = 0; asked < 12; asked++) {
      await expect(registry.getManifest("a", "1", { signal: AbortSignal.timeout(5) })).rejects.toMatchObject({ name: "TimeoutError" });
    }
    expect(registry.status().urls[0]?.breaker).toBe("closed");
    upstream.intercept = undefined;
    foundIn(await registry.getManifest("a", "1"));
  });
});
