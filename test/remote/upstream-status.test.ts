import { describe, expect, it } from "vitest";
import type { UpstreamEvent } from "../../src/core/events.js";
import { fakeClock } from "../../src/testing/fake-clock.js";
import { foundIn, remoteFor, upstreamFor } from "./support.js";

async function watched(options = {}) {
  const clock = fakeClock();
  const upstream = await upstreamFor();
  upstream.addImage("a", "1");
  const told: UpstreamEvent[] = [];
  const events = {
    emit(type: string, event: unknown) {
      if (type === "upstream") told.push(event as UpstreamEvent);
      throw new Error("an observer that fails");
    },
  };
  const registry = remoteFor(upstream, { clock, events, retries: 0, ...options });
  return { clock, upstream, told, registry, ask: () => registry.getManifest("a", "1") };
}

describe("status", () => {
  it("knows nothing before the first request, and asks nobody", async () => {
    const { clock, upstream, registry } = await watched();
    await registry.ready();
    expect(registry.status()).toEqual({
      urls: [
        {
          url: upstream.url,
          reachable: undefined,
          since: clock.now(),
          breaker: "closed",
          requests: { running: 0, queued: 0 },
          bytes: 0,
        },
      ],
    });
    expect(upstream.requests).toHaveLength(0);
  });

  it("tells whether the upstream answers, since when, and what was wrong last", async () => {
    const { clock, upstream, registry, ask } = await watched();
    const bytes = foundIn(await ask()).bytes.byteLength;
    const since = clock.now();
    await clock.advance(1000);
    foundIn(await ask());
    expect(registry.status().urls[0]).toMatchObject({ reachable: true, since, bytes: 2 * bytes });
    upstream.intercept = () => ({ status: 500 });
    await ask();
    const lastError = { time: clock.now(), message: "answered 500" };
    expect(registry.status().urls[0]).toMatchObject({ reachable: false, since: clock.now(), lastError });
    await clock.advance(1000);
    upstream.intercept = undefined;
    await ask();
    expect(registry.status().urls[0]).toMatchObject({ reachable: true, since: clock.now(), lastError });
  });

  it("stays reachable while further tries help", async () => {
    const { upstream, registry, told } = await watched({
      retries: 2,
      clock: { now: Date.now, elapsed: () => performance.now(), sleep: async () => {} },
    });
    let failures = 2;
    upstream.intercept = () => (failures-- > 0 ? { hangUp: true } : undefined);
    foundIn(await registry.getManifest("a", "1"));
    expect(registry.status().urls[0]?.reachable).toBe(true);
    expect(told).toEqual([]);
    failures = 3;
    await registry.getManifest("a", "1");
    expect(registry.status().urls[0]?.reachable).toBe(false);
  });
});

describe("upstream events", () => {
  it("tell changes, once; that it works from the beginning is none", async () => {
    const { clock, upstream, told, ask } = await watched();
    const states = () => told.map(({ state, message }) => [state, message]);
    await ask();
    expect(told).toEqual([]);
    upstream.intercept = () => ({ status: 500 });
    for (let asked = 0; asked < 3; asked++) await ask();
    expect(told).toEqual([{ time: clock.now(), registry: "up", url: upstream.url, state: "down", message: "answered 500" }]);
    upstream.intercept = () => ({ status: 429, headers: { "retry-after": "30" } });
    for (let asked = 0; asked < 3; asked++) await ask();
    await clock.advance(30_000);
    upstream.intercept = undefined;
    for (let asked = 0; asked < 3; asked++) await ask();
    expect(states()).toEqual([
      ["down", "answered 500"],
      ["limited", "it has asked to be left alone for 30 s"],
      ["up", undefined],
    ]);
    upstream.intercept = () => ({ headers: { "ratelimit-limit": "10;w=60", "ratelimit-remaining": "0;w=60" } });
    await ask();
    expect(states().at(-1)).toEqual(["limited", "0 of 10 pulls are left"]);
  });
});
