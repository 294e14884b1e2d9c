import { describe, expect, it } from "vitest";
import { RequestQueue } from "../../../src/remote/limits/request-queue.js";
import { fakeClock } from "../../../src/testing/fake-clock.js";
import { eventually } from "../../fixtures/read.js";
import { errorOf, foundIn, readAll, remoteFor, seen, upstreamFor } from "../support.js";

/** An upstream whose answers wait to be let go, and images to ask for. */
async function held() {
  const upstream = await upstreamFor();
  for (const tag of ["1", "2", "3", "4"]) upstream.addImage("a", tag);
  const waiting: (() => void)[] = [];
  upstream.intercept = () => new Promise((resolve) => waiting.push(() => resolve(undefined)));
  const arrived = (count: number) => eventually(async () => upstream.requests.length >= count, `${count} requests`);
  const letGo = async (count: number) => {
    await eventually(async () => waiting.length >= count, `${count} answers to let go`);
    for (const answer of waiting.splice(0, count)) answer();
  };
  return { upstream, arrived, letGo };
}

const requests = (registry: ReturnType<typeof remoteFor>) => registry.status().urls[0]?.requests;

describe("requests at once", () => {
  it("are at most maxRequests; who waits for an answer goes before the background", async () => {
    const { upstream, letGo } = await held();
    const registry = remoteFor(upstream, { maxRequests: 1 });
    const all = [
      registry.resolveManifest("a", "1"),
      registry.resolveManifest("a", "2", { priority: "background" }),
      registry.resolveManifest("a", "3"),
      registry.resolveManifest("a", "4"),
    ];
    for (let left = 3; left >= 0; left--) {
      await eventually(async () => requests(registry)?.queued === left, `${left} queued`);
      expect(requests(registry)).toEqual({ running: 1, queued: left });
      await letGo(1);
    }
    for (const lookup of await Promise.all(all)) foundIn(lookup);
    expect(seen(upstream)).toEqual(["1", "3", "4", "2"].map((tag) => `HEAD /v2/a/manifests/${tag}`));
    await eventually(async () => requests(registry)?.running === 0, "all have ended");
  });

  it("include a blob until it is read", async () => {
    const upstream = await upstreamFor();
    const blob = upstream.addBlob("a", 1_000_000);
    const registry = remoteFor(upstream, { maxRequests: 1, maxConnections: 1 });
    const { content } = foundIn(await registry.getBlob("a", blob.digest, { verify: false }));
    const second = registry.resolveBlob("a", blob.digest);
    await eventually(async () => requests(registry)?.queued === 1, "the second one waits");
    expect(upstream.requests).toHaveLength(1);
    expect(content.kind === "stream" && (await readAll(content.open())).byteLength).toBe(1_000_000);
    expect(foundIn(await second).size).toBe(1_000_000);
    expect(registry.status().urls[0]?.bytes).toBe(1_000_000);
  });

  it("include a blob until it is given up", async () => {
    const clock = fakeClock();
    const upstream = await upstreamFor();
    const blob = upstream.addBlob("a", 1_000_000);
    const registry = remoteFor(upstream, { maxRequests: 1, clock });
    foundIn(await registry.getBlob("a", blob.digest, { verify: false }));
    const second = registry.resolveBlob("a", blob.digest);
    await clock.advance(30_000);
    expect(foundIn(await second).size).toBe(1_000_000);
  });

  it("let a HEAD for the size of a held blob through, and a copy within the registry", async () => {
    const upstream = await upstreamFor();
    const blob = upstream.addBlob("a", 1000);
    upstream.intercept = ({ method }) => (method === "GET" ? { dropContentLength: true } : method === "POST" ? { status: 403 } : undefined);
    const registry = remoteFor(upstream, { maxRequests: 1, maxConnections: 1, readOnly: false });
    const { descriptor, content } = foundIn(await registry.getBlob("a", blob.digest, { verify: false }));
    expect(descriptor.size).toBe(1000);
    await expect(registry.startUpload("b")).rejects.toMatchObject({ code: "DENIED" });
    expect(content.kind === "stream" && (await readAll(content.open())).byteLength).toBe(1000);
  });

  it("end with the signal while they wait", async () => {
    const { upstream, letGo } = await held();
    const registry = remoteFor(upstream, { maxRequests: 1 });
    const first = registry.resolveManifest("a", "1");
    const controller = new AbortController();
    const second = registry.resolveManifest("a", "2", { signal: controller.signal });
    await eventually(async () => requests(registry)?.queued === 1, "the second one waits");
    const reason = new Error("enough");
    controller.abort(reason);
    await expect(second).rejects.toBe(reason);
    await letGo(1);
    foundIn(await first);
    expect(upstream.requests).toHaveLength(1);
  });

  it("that wait end when the registry is closed", async () => {
    const { upstream, arrived } = await held();
    const registry = remoteFor(upstream, { maxRequests: 1 });
    const lookups = [registry.resolveManifest("a", "1"), registry.resolveManifest("a", "2")];
    await arrived(1);
    await registry.close({ deadline: "1ms" });
    for (const lookup of await Promise.all(lookups)) expect(lookup.kind).toBe("unavailable");
    expect(upstream.requests).toHaveLength(1);
  });
});

describe("requests a second", () => {
  it("are at most maxRequestsPerSecond, with a second's worth at once", async () => {
    const clock = fakeClock();
    const turns = new RequestQueue(clock, { running: 100, perSecond: 2 });
    let taken = 0;
    for (let asked = 0; asked < 6; asked++) void turns.take("foreground", undefined).then(() => taken++);
    await clock.advance(0);
    expect(taken).toBe(2);
    for (const [step, expected] of [
      [499, 2],
      [1, 3],
      [1000, 5],
      [10_000, 6],
    ] as const) {
      await clock.advance(step);
      expect(taken).toBe(expected);
    }
    // Unused turns are kept for one second.
    for (let asked = 0; asked < 4; asked++) void turns.take("exempt", undefined).then(() => taken++);
    await clock.advance(0);
    expect(taken).toBe(8);
    turns.close();
  });

  it("may be less than one", async () => {
    const clock = fakeClock();
    const upstream = await upstreamFor();
    upstream.addImage("a", "1");
    const registry = remoteFor(upstream, { clock, maxRequestsPerSecond: 0.1 });
    foundIn(await registry.resolveManifest("a", "1"));
    const second = registry.resolveManifest("a", "1");
    await clock.advance(9999);
    expect(upstream.requests).toHaveLength(1);
    expect(requests(registry)?.queued).toBe(1);
    await clock.advance(1);
    foundIn(await second);
  });
});

describe("maxConnections", () => {
  it("bounds what runs at the upstream", async () => {
    const { upstream, arrived, letGo } = await held();
    const registry = remoteFor(upstream, { maxConnections: 2 });
    const lookups = Promise.all(["1", "2", "3"].map((tag) => registry.resolveManifest("a", tag)));
    await arrived(2);
    expect(requests(registry)?.running).toBe(3);
    expect(upstream.requests).toHaveLength(2);
    await letGo(2);
    await letGo(1);
    expect((await lookups).map((lookup) => lookup.kind)).toEqual(["found", "found", "found"]);
  });
});

describe("options", () => {
  it.each([
    { maxRequests: 0 },
    { maxConnections: 1.5 },
    { maxRequestsPerSecond: 0 },
    { maxRequestsPerSecond: Number.NaN },
    { quotaReserve: 1 },
    { retries: -1 },
    { breaker: { failures: 0 } },
    { breaker: { openFor: "soon" as never } },
  ])("%j cannot work", (options) => {
    expect(() => remoteFor({ url: "https://r.example" }, options)).toThrow(expect.objectContaining({ code: "UNKNOWN" }));
  });

  it("that keep many waiting refuse further ones", async () => {
    const { upstream, arrived } = await held();
    const registry = remoteFor(upstream, { maxRequests: 1 });
    const lookups = Array.from({ length: 10_001 }, () => registry.resolveManifest("a", "1"));
    await arrived(1);
    expect(errorOf(await registry.resolveManifest("a", "2"))).toMatchObject({ code: "TOOMANYREQUESTS", retryAfter: 1 });
    await registry.close({ deadline: "1ms" });
    for (const lookup of await Promise.all(lookups)) expect(lookup.kind).toBe("unavailable");
  });
});
