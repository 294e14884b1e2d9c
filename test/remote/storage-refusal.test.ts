import { cached, localRegistry } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, it } from "vitest";
import { aggregate } from "../../src/aggregate/aggregate.js";
import type { BlobContent } from "../../src/core/registry.js";
import type { FakeRequest, Fault } from "../../src/testing/fake-upstream.js";
import { errorOf, foundIn, impatientClock, readAll, remoteFor, seen, upstreamFor } from "./support.js";

const size = 200_000;

/** A registry whose blobs are in another server, each redirect with a signature of its own. */
async function redirectingFor(options = {}) {
  const upstream = await upstreamFor();
  const storage = await upstreamFor();
  const blob = upstream.addBlob("a", size);
  const bytes = upstream.repository("a").blobs.get(blob.digest) ?? Buffer.alloc(0);
  let signed = 0;
  const redirect = ({ url, method }: FakeRequest): Fault | undefined =>
    url.includes("/blobs/") && method === "GET" ? { redirect: `${storage.url}/bucket/object?signature=${++signed}` } : undefined;
  upstream.intercept = redirect;
  /** Fails so often, then gives the blob. */
  const failing = (fault: Fault, times = Number.POSITIVE_INFINITY) => {
    let left = times;
    storage.intercept = ({ headers }) => (left-- > 0 ? fault : served(bytes, headers.range));
  };
  failing({}, 0);
  const clock = impatientClock();
  return { upstream, storage, blob, bytes, redirect, failing, clock, registry: remoteFor(upstream, { clock, ...options }) };
}

/** A bucket's answer. */
function served(bytes: Uint8Array, range: string | undefined): Fault {
  const start = Number(/^bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0);
  if (!range) return { status: 200, body: bytes };
  const last = bytes.byteLength - 1;
  return { status: 206, body: bytes.subarray(start), headers: { "content-range": `bytes ${start}-${last}/${bytes.byteLength}` } };
}

async function bytesOf({ content }: BlobContent): Promise<Buffer> {
  return content.kind === "stream" ? readAll(content.open()) : Buffer.from(content.kind === "bytes" ? content.bytes : []);
}

const refusals: [string, Fault][] = [
  ...[400, 401, 403, 404, 410, 412].map((status): [string, Fault] => [String(status), { status }]),
  ["403 in XML", { status: 403, body: "<Error><Code>AccessDenied</Code></Error>", headers: { "content-type": "application/xml" } }],
  ["a refused connection", { redirect: "http://127.0.0.1:1/x" }],
  ["a broken connection", { hangUp: true }],
  ["a loop", { redirect: "/bucket/object" }],
  ["an unusable target", { redirect: "ftp://x/?signature=s3cret" }],
];

describe("storage behind a redirect", () => {
  it.each(refusals)("is asked by a fresh redirect after %s", async (_, fault) => {
    const { registry, blob, bytes, upstream, storage, failing, redirect, clock } = await redirectingFor();
    let first = true;
    failing(fault, 1);
    if (fault.redirect === "/bucket/object") {
      // A loop has many hops, so the redirect decides.
      failing({}, 0);
      const give = storage.intercept;
      storage.intercept = (request) => (request.url === "/loop" ? { redirect: "/loop" } : give?.(request));
      upstream.intercept = (request) => {
        const fresh = redirect(request);
        if (!first || !fresh) return fresh;
        first = false;
        return { redirect: `${storage.url}/loop` };
      };
    }
    expect((await bytesOf(foundIn(await registry.getBlob("a", blob.digest)))).equals(bytes)).toBe(true);
    expect(seen(upstream)).toEqual(Array(2).fill(`GET /v2/a/blobs/${blob.digest}`));
    expect(clock.pauses).toEqual([]);
  });

  it.each(refusals)("that refuses again and again is no absence, and no word of the registry: %s", async (_, fault) => {
    const { registry, blob, failing } = await redirectingFor();
    failing(fault);
    const lookup = await registry.getBlob("a", blob.digest);
    expect(lookup.kind).toBe("unavailable");
    expect(errorOf(lookup).message).toContain("the storage that the registry redirects to");
    expect(errorOf(lookup).message).not.toMatch(/credentials|signature|s3cret|127\.0\.0\.1/);
    expect((await registry.resolveBlob("a", blob.digest)).kind).toBe("found");
  });

  it.each(refusals)("that refuses sends the next URL: %s", async (_, fault) => {
    const { upstream, blob, bytes, failing, clock } = await redirectingFor();
    const mirror = await upstreamFor();
    mirror.addBlob("a", bytes);
    failing(fault);
    const registry = remoteFor([upstream, mirror], { clock });
    expect((await bytesOf(foundIn(await registry.getBlob("a", blob.digest)))).equals(bytes)).toBe(true);
    expect([upstream.requests.length, mirror.requests.length]).toEqual([2, 1]);
    expect(registry.status().urls[0]?.breaker).toBe("closed");
  });

  it.each([403, 404])("that refuses sends the next member: %i", async (status) => {
    const { registry, blob, bytes, failing } = await redirectingFor();
    failing({ status });
    const other = await upstreamFor();
    other.addBlob("a", bytes);
    const all = aggregate({
      local: localRegistry({ storage: memoryStorage(), name: "all" }),
      connectors: [
        { name: "first", source: registry },
        { name: "second", source: remoteFor(other, { name: "other" }) },
      ],
    });
    await all.ready();
    expect((await bytesOf(foundIn(await all.getBlob("a", blob.digest)))).equals(bytes)).toBe(true);
    other.intercept = () => ({ status: 404 });
    expect((await all.getBlob("a", blob.digest)).kind).toBe("unavailable");
    await all.close();
  });

  it.each([403, 404, 416])("ends no cached transfer: %i where one is resumed", async (status) => {
    const { registry, blob, bytes, storage, clock } = await redirectingFor();
    const ranges: (string | undefined)[] = [];
    storage.intercept = ({ headers: { range } }) => {
      ranges.push(range);
      if (ranges.length === 1) return { status: 200, body: bytes, truncateAfter: 120_000 };
      return ranges.length < 4 ? { status } : served(bytes, range);
    };
    const cache = cached(registry, { storage: memoryStorage(), name: "hub", clock });
    await cache.ready();
    expect((await bytesOf(foundIn(await cache.getBlob("a", blob.digest)))).equals(bytes)).toBe(true);
    expect(ranges[0]).toBeUndefined();
    expect(ranges.slice(1).every((range) => range === ranges[1] && range !== undefined)).toBe(true);
    await cache.close();
  });

  it("that refuses a range within the blob is asked again, and one outside is refused", async () => {
    const { registry, blob, bytes, failing } = await redirectingFor();
    const ask = (start: number) => registry.getBlob("a", blob.digest, { range: { start }, verify: false });
    for (const headers of [{}, { "content-range": "bytes */0" }, { "content-range": "bytes */7" }]) {
      failing({ status: 416, headers }, 1);
      expect((await bytesOf(foundIn(await ask(size - 10)))).equals(bytes.subarray(size - 10))).toBe(true);
    }
    failing({ status: 416, headers: { "content-range": "bytes */7" } });
    expect(errorOf(await ask(10)).message).toContain("storage that the registry redirects to refused with 416");
    await expect(ask(size)).rejects.toMatchObject({ code: "RANGE_INVALID" });
  });

  it("may be another registry, whose word of an absence counts", async () => {
    const { registry, blob, upstream, storage } = await redirectingFor();
    upstream.intercept = ({ url, method }) => (method === "GET" ? { redirect: `${storage.url}${url}` } : undefined);
    storage.intercept = undefined;
    expect((await registry.getBlob("a", blob.digest)).kind).toBe("absent");
    for (const body of ["{}", '{"errors":[null]}', '{"errors":[{"code":"AccessDenied"}]}', "[]"]) {
      storage.intercept = () => ({ status: 404, body });
      expect((await registry.getBlob("a", blob.digest)).kind).toBe("unavailable");
    }
  });

  it("is none where the registry redirects to itself", async () => {
    const upstream = await upstreamFor();
    const { digest } = upstream.addBlob("b", 10);
    upstream.intercept = ({ url }) => (url.startsWith("/v2/a/") ? { redirect: `/v2/c/blobs/${digest}` } : { status: 404 });
    const registry = remoteFor(upstream);
    expect((await registry.getBlob("a", digest)).kind).toBe("absent");
    expect(upstream.requests).toHaveLength(2);
  });
});
