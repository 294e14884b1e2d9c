import { describe, expect, it } from "vitest";
import { chunksOf } from "../../src/core/content.js";
import { parseRetryAfter } from "../../src/remote/failures.js";
import { remoteRegistry } from "../../src/remote/remote-registry.js";
import { fakeClock } from "../../src/testing/fake-clock.js";
import { errorOf, foundIn, remoteFor, upstreamFor } from "./support.js";

const digest = `sha256:${"0".repeat(64)}`;

describe("remoteRegistry", () => {
  it.each([
    "registry.example",
    "ftp://registry.example",
    "https://user:s3cret@registry.example",
    "https://registry.example/s3cret",
    "https://registry.example/?s3cret",
    "http://[s3cret",
    "",
  ])("refuses the URL %j at once, without repeating it", (url) => {
    expect(() => remoteRegistry(url)).toThrow(expect.objectContaining({ code: "UNKNOWN", message: expect.not.stringContaining("s3cret") }));
  });

  it("refuses options that cannot work", () => {
    for (const options of [
      { credentials: { user: "s3cret" } as never },
      { userAgent: "a\r\nb" },
      { realmHosts: ["https://auth.example/"] },
    ]) {
      expect(() => remoteRegistry("https://r.example", options)).toThrow(
        expect.objectContaining({ message: expect.not.stringContaining("s3cret") }),
      );
    }
  });

  it("is called after its host unless it has a name", async () => {
    const upstream = await upstreamFor();
    upstream.addImage("a", "1");
    const lookup = await remoteFor(upstream, { name: undefined }).getManifest("a", "1");
    expect(lookup).toMatchObject({ served: { member: [new URL(upstream.url).host] } });
  });

  it("throws UNSUPPORTED from every write, and answers for no namespace", async () => {
    const registry = remoteRegistry("https://r.example", { name: "r" });
    const body = Buffer.from("{}");
    const writes = [
      registry.putManifest("a", "1", { bytes: body }),
      registry.putBlob("a", { digest }, chunksOf(body)),
      registry.mountBlob("a", digest),
      registry.startUpload("a"),
      registry.resumeUpload("a", "id"),
      registry.deleteManifest("a", "1"),
      registry.deleteBlob("a", digest),
    ];
    for (const write of writes) {
      await expect(write).rejects.toMatchObject({
        code: "UNSUPPORTED",
        message: "r: this remote is read-only: push to r.example directly",
      });
    }
    expect(registry.forNamespace("r.example")).toBeUndefined();
    expect(registry.identity).toBe("https://r.example");
    await registry.close();
  });

  it("is ready when the upstream is down, and unavailable then; with the network's code", async () => {
    const upstream = await upstreamFor();
    await upstream.close();
    const registry = remoteFor(upstream);
    await registry.ready();
    expect(errorOf(await registry.getManifest("a", "1"))).toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringContaining("ECONNREFUSED"),
    });
  });

  it.each([
    [400, "unavailable", "UNAVAILABLE"],
    [401, "denied", "DENIED"],
    [403, "denied", "DENIED"],
    [405, "unavailable", "UNSUPPORTED"],
    [408, "unavailable", "UNAVAILABLE"],
    [429, "unavailable", "TOOMANYREQUESTS"],
    [500, "unavailable", "UNAVAILABLE"],
    [502, "unavailable", "UNAVAILABLE"],
    [503, "unavailable", "UNAVAILABLE"],
    [204, "unavailable", "UNAVAILABLE"],
  ])("answers %i as %s %s to every read", async (status, kind, code) => {
    const upstream = await upstreamFor();
    upstream.intercept = () => ({ status, headers: { "retry-after": "9" } });
    const registry = remoteFor(upstream);
    const lookups = await Promise.all([
      registry.getManifest("a", "1"),
      registry.resolveManifest("a", "1"),
      registry.getBlob("a", digest),
      registry.resolveBlob("a", digest),
      registry.listTags("a", { limit: 1 }),
    ]);
    for (const lookup of lookups) {
      expect(lookup.kind).toBe(kind);
      expect(errorOf(lookup).code).toBe(code);
      if (status === 429 || status === 503) expect(errorOf(lookup).retryAfter).toBe(9);
    }
  });

  it("waits no longer than its timeouts", async () => {
    const upstream = await upstreamFor();
    upstream.addImage("a", "1");
    upstream.intercept = () => ({ delay: 5000 });
    const registry = remoteFor(upstream, { timeouts: { headers: "100ms" } });
    expect(errorOf(await registry.getManifest("a", "1")).message).toContain("UND_ERR_HEADERS_TIMEOUT");
  });

  it("closes once, at the deadline even when a response is held", async () => {
    const upstream = await upstreamFor();
    const blob = upstream.addBlob("a", 10_000_000);
    const registry = remoteFor(upstream);
    foundIn(await registry.getBlob("a", blob.digest));
    const started = Date.now();
    await Promise.all([registry.close({ deadline: "50ms" }), registry.close()]);
    await registry.close();
    expect(Date.now() - started).toBeLessThan(5000);
    expect((await registry.getManifest("a", "1")).kind).toBe("unavailable");
  });
});

describe("Retry-After", () => {
  const clock = fakeClock(Date.UTC(2026, 0, 1));
  it.each([
    ["5", 5],
    [" 0 ", 0],
    ["99999999", 3600],
    ["Thu, 01 Jan 2026 00:01:00 GMT", 60],
    ["Wed, 31 Dec 2025 00:00:00 GMT", 0],
    ["soon", undefined],
    ["", undefined],
    [undefined, undefined],
  ])("%j is %s", (header, expected) => {
    expect(parseRetryAfter(header, clock)).toBe(expected);
  });
});
