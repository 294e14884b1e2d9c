import { describe, expect, it } from "vitest";
import { dockerHub } from "../../src/remote/presets/docker-hub.js";
import { remoteRegistry } from "../../src/remote/remote-registry.js";
import { fakeClock } from "../../src/testing/fake-clock.js";
import type { Fault } from "../../src/testing/fake-upstream.js";
import { errorOf, foundIn, impatientClock, readAll, remoteFor, seen, upstreamFor } from "./support.js";

async function two(options = {}, ways = {}) {
  const [first, second] = [await upstreamFor(ways), await upstreamFor(ways)];
  const image = first.addImage("a", "1");
  for (const blob of [image.config, ...image.layers]) second.addBlob("a", first.repository("a").blobs.get(blob.digest) ?? 0);
  second.addManifest("a", "1", image.bytes);
  const clock = impatientClock();
  return { first, second, image, clock, registry: remoteFor([first, second], { clock, ...options }) };
}

describe("several URLs", () => {
  it("are asked in order, and stand for the first", async () => {
    const { first, second, registry } = await two();
    foundIn(await registry.getManifest("a", "1"));
    expect([seen(first), seen(second)]).toEqual([["GET /v2/a/manifests/1"], []]);
    expect(registry.identity).toBe(first.url);
    expect(registry.status().urls.map(({ url }) => url)).toEqual([first.url, second.url]);
  });

  it.each<[string, Fault]>([
    ["breaks the connection", { hangUp: true }],
    ["answers 502", { status: 502 }],
    ["answers 429", { status: 429, headers: { "retry-after": "60" } }],
  ])("are asked one after the other, without a pause, when one %s", async (_, fault) => {
    const { first, second, registry, image, clock } = await two();
    first.intercept = () => fault;
    foundIn(await registry.resolveManifest("a", "1"));
    const { content } = foundIn(await registry.getBlob("a", image.layers[0]?.digest ?? "", { verify: false }));
    expect(content.kind === "stream" && (await readAll(content.open())).byteLength).toBe(1024);
    expect(seen(second)).toHaveLength(2);
    // Asked to be left alone, the first one is.
    expect(first.requests).toHaveLength(fault.status === 429 ? 1 : 2);
    expect(clock.pauses).toEqual([]);
  });

  it("are passed over while a breaker is open", async () => {
    const { first, second, registry } = await two({ breaker: { failures: 1 }, clock: fakeClock() });
    first.intercept = () => ({ status: 500 });
    for (let asked = 0; asked < 5; asked++) foundIn(await registry.resolveManifest("a", "1"));
    expect([first.requests.length, second.requests.length]).toEqual([2, 5]);
    expect(registry.status().urls.map(({ breaker }) => breaker)).toEqual(["open", "closed"]);
  });

  it.each([
    [404, "absent"],
    [403, "denied"],
    [401, "denied"],
  ])("are final in a %i", async (status, kind) => {
    const { first, second, registry } = await two();
    first.intercept = () => ({ status });
    expect((await registry.getManifest("a", "1")).kind).toBe(kind);
    expect(second.requests).toHaveLength(0);
  });

  it("are tried again together; too many requests is the answer only of all", async () => {
    const { first, second, registry } = await two();
    first.intercept = () => ({ status: 429, headers: { "retry-after": "60" } });
    second.intercept = () => ({ status: 503 });
    expect(errorOf(await registry.getManifest("a", "1"))).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("503") });
    expect([first.requests.length, second.requests.length]).toEqual([1, 3]);
    second.intercept = first.intercept;
    const { code, retryAfter } = errorOf(await registry.getManifest("a", "1"));
    expect(code).toBe("TOOMANYREQUESTS");
    // The pauses between the three tries before, some 750 ms with their jitter, have passed of the first one's minute.
    expect([59, 60]).toContain(retryAfter);
  });

  it("have tokens of their own, whose endpoint may fail too", async () => {
    const { first, second, registry } = await two({}, { auth: { kind: "bearer" } });
    foundIn(await registry.getManifest("a", "1"));
    first.revokeTokens();
    first.intercept = ({ url }) => (url.startsWith("/token") ? { status: 500 } : undefined);
    foundIn(await registry.getManifest("a", "1"));
    expect(second.tokensIssued).toBe(1);
    for (const { headers } of second.requests) expect(headers.authorization ?? "").not.toBe(first.requests[2]?.headers.authorization);
  });

  it("give a listing from where it began", async () => {
    const { first, second, registry } = await two({}, { pageSize: 1 });
    for (const tag of ["2", "3"]) {
      first.addImage("a", tag);
      second.addImage("a", tag);
    }
    first.intercept = () => ({ status: 503 });
    expect(foundIn(await registry.listTags("a", { limit: 3 })).items).toEqual(["1", "2", "3"]);
    expect(first.requests).toHaveLength(1);
    let pages = 0;
    first.intercept = undefined;
    second.requests.length = 0;
    first.intercept = () => (pages++ > 0 ? { status: 503 } : undefined);
    expect(foundIn(await registry.listTags("a", { limit: 3 }))).toMatchObject({ items: ["1"], warnings: [expect.any(String)] });
    expect(second.requests).toHaveLength(0);
  });

  it("are written to at the first only, with the reads that belong to a write", async () => {
    const { first, second, registry } = await two({ readOnly: false });
    first.intercept = () => ({ status: 503 });
    const digest = `sha256:${"0".repeat(64)}`;
    await expect(registry.startUpload("a")).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await expect(registry.deleteManifest("a", digest)).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(second.requests).toHaveLength(0);
  });

  it("are given once each, and at least one", () => {
    for (const urls of [[], ["https://a.example", "https://a.example/"], ["https://a.example", "b"]]) {
      expect(() => remoteRegistry(urls)).toThrow(expect.objectContaining({ code: "UNKNOWN" }));
    }
  });

  it("may be Docker Hub and a mirror", async () => {
    const hub = dockerHub({ url: ["https://mirror.example", "docker.io"].map((host) => host.replace(/^docker/, "https://docker")) });
    expect(hub.status().urls.map(({ url }) => url)).toEqual(["https://mirror.example", "https://registry-1.docker.io"]);
    await hub.close();
  });

  it("each wait for themselves", async () => {
    const clock = fakeClock();
    const { first, second } = await two();
    const registry = remoteFor([first, second], { clock, retries: 0 });
    first.intercept = () => ({ status: 429, headers: { "retry-after": "10" } });
    foundIn(await registry.resolveManifest("a", "1"));
    await clock.advance(10_000);
    first.intercept = undefined;
    foundIn(await registry.resolveManifest("a", "1"));
    expect([first.requests.length, second.requests.length]).toEqual([2, 1]);
  });
});
