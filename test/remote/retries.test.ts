import { describe, expect, it } from "vitest";
import type { Fault } from "../../src/testing/fake-upstream.js";
import { errorOf, foundIn, impatientClock, readAll, remoteFor, seen, upstreamFor } from "./support.js";

async function retrying(options = {}) {
  const upstream = await upstreamFor();
  const image = upstream.addImage("a", "1", { layers: [200_000] });
  const clock = impatientClock();
  return { upstream, image, clock, registry: remoteFor(upstream, { clock, ...options }) };
}

describe("a read", () => {
  it.each<[string, Fault]>([
    ["a broken connection", { hangUp: true }],
    ...[408, 500, 502, 503, 504].map((status): [string, Fault] => [String(status), { status }]),
    ["429 with a short Retry-After", { status: 429, headers: { "retry-after": "5" } }],
    ["429 without Retry-After", { status: 429 }],
  ])("is tried up to three times after %s", async (_, fault) => {
    const { upstream, registry, clock, image } = await retrying();
    let failures = 2;
    upstream.intercept = () => (failures-- > 0 ? fault : undefined);
    expect(foundIn(await registry.resolveManifest("a", "1")).digest).toBe(image.digest);
    expect(seen(upstream)).toEqual(Array(3).fill("HEAD /v2/a/manifests/1"));
    expect(clock.pauses).toHaveLength(2);
    upstream.requests.length = 0;
    failures = 100;
    expect((await registry.getManifest("a", "1")).kind).toBe("unavailable");
    expect(seen(upstream)).toEqual(Array(3).fill("GET /v2/a/manifests/1"));
  });

  it("waits longer each time, with jitter, and as long as the upstream asks", async () => {
    const { upstream, registry, clock } = await retrying({ retries: 4, breaker: false });
    upstream.intercept = () => ({ status: 500 });
    await registry.getManifest("a", "1");
    for (const [at, pause] of clock.pauses.entries()) {
      expect(pause).toBeGreaterThanOrEqual(125 * 2 ** at);
      expect(pause).toBeLessThan(375 * 2 ** at);
    }
    expect(clock.pauses).toHaveLength(4);
    clock.pauses.length = 0;
    upstream.intercept = () => ({ status: 500, headers: { "retry-after": "4" } });
    await registry.getManifest("a", "1");
    expect(clock.pauses).toEqual([4000, 4000, 4000, 4000]);
  });

  it.each<[string, Fault]>([
    ["401", { status: 401 }],
    ["403", { status: 403 }],
    ["404", { status: 404 }],
    ["405", { status: 405 }],
    ["501", { status: 501 }],
    ["429 with a long Retry-After", { status: 429, headers: { "retry-after": "6" } }],
    ["503 with a long Retry-After", { status: 503, headers: { "retry-after": "6" } }],
    ["a refused redirect", { redirect: "ftp://x/" }],
    ["a body that breaks off", { truncateAfter: 10 }],
  ])("is not tried again after %s", async (_, fault) => {
    const { upstream, registry, clock } = await retrying();
    upstream.intercept = () => fault;
    expect((await registry.getManifest("a", "1")).kind).not.toBe("found");
    expect(seen(upstream)).toEqual(["GET /v2/a/manifests/1"]);
    expect(clock.pauses).toEqual([]);
  });

  it("is not tried again when it took all its time", async () => {
    const { upstream, registry } = await retrying({ timeouts: { headers: "50ms" } });
    upstream.intercept = () => ({ delay: 3000 });
    expect(errorOf(await registry.getManifest("a", "1")).message).toContain("UND_ERR_HEADERS_TIMEOUT");
    expect(upstream.requests).toHaveLength(1);
  });

  it("leaves a blob that breaks off to its reader", async () => {
    const { upstream, registry, image } = await retrying();
    upstream.intercept = () => ({ truncateAfter: 100_000 });
    const { content } = foundIn(await registry.getBlob("a", image.layers[0]?.digest ?? "", { verify: false }));
    await expect(content.kind === "stream" && readAll(content.open())).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(upstream.requests).toHaveLength(1);
  });

  it("has as many tries as it is given", async () => {
    const { upstream, registry } = await retrying({ retries: 0 });
    upstream.intercept = () => ({ status: 502 });
    expect(errorOf(await registry.listTags("a", { limit: 1 })).message).toContain("502");
    expect(upstream.requests).toHaveLength(1);
  });

  it("ends with the signal, also between two tries", async () => {
    const { upstream } = await retrying();
    const reason = new Error("enough");
    const controller = new AbortController();
    const clock = impatientClock();
    const sleep = (_: number, signal?: AbortSignal) => {
      controller.abort(reason);
      return clock.sleep(1, signal);
    };
    const registry = remoteFor(upstream, { clock: { ...clock, sleep } });
    upstream.intercept = () => ({ status: 503 });
    await expect(registry.getManifest("a", "1", { signal: controller.signal })).rejects.toBe(reason);
    expect(upstream.requests).toHaveLength(1);
  });
});

describe("a token request", () => {
  it("is tried again as a read is", async () => {
    const { upstream, registry, image } = await retrying();
    upstream.auth = { kind: "bearer" };
    let failures = 2;
    upstream.intercept = ({ url }) => (url.startsWith("/token") && failures-- > 0 ? { status: 503 } : undefined);
    expect(foundIn(await registry.getManifest("a", "1")).descriptor.digest).toBe(image.digest);
    expect(upstream.tokensIssued).toBe(3);
    expect(seen(upstream).filter((request) => request.includes("/token"))).toHaveLength(3);
  });
});

describe("a write", () => {
  it("is never tried again", async () => {
    const { upstream, registry } = await retrying({ readOnly: false });
    upstream.intercept = () => ({ status: 503 });
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [] }));
    const mediaType = "application/vnd.oci.image.index.v1+json";
    await expect(registry.putManifest("a", "1", { bytes, mediaType })).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(seen(upstream)).toEqual(["PUT /v2/a/manifests/1"]);
  });
});
