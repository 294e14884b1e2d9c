import { describe, expect, it } from "vitest";
import type { Content } from "../../src/core/content.js";
import type { ByteRange } from "../../src/core/range.js";
import { fakeClock } from "../../src/testing/fake-clock.js";
import type { Fault } from "../../src/testing/fake-upstream.js";
import { errorOf, foundIn, readAll, remoteFor, seen, upstreamFor } from "./support.js";

const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at * 7) % 251));

async function blobFor(content: Uint8Array = bytes) {
  const upstream = await upstreamFor();
  const blob = upstream.addBlob("a", content);
  return { upstream, blob, registry: remoteFor(upstream) };
}

function open(content: Content) {
  if (content.kind !== "stream") throw new Error(content.kind);
  return content.open();
}

describe("resolveBlob", () => {
  it("is one HEAD", async () => {
    const { upstream, blob, registry } = await blobFor();
    expect(await registry.resolveBlob("a", blob.digest)).toEqual({ kind: "found", value: blob, served: { member: ["up"] } });
    expect(seen(upstream)).toEqual([`HEAD /v2/a/blobs/${blob.digest}`]);
  });

  it.each<[string, Fault]>([
    ["has no length", { dropContentLength: true }],
    ["is redirected to a URL signed for GET", { redirect: "http://127.0.0.1:1/", headers: { "content-length": "17" } }],
    ["is refused with 405", { status: 405 }],
  ])("asks by GET and abandons the body when the HEAD %s", async (_, fault) => {
    const { upstream, blob, registry } = await blobFor();
    upstream.intercept = ({ method }) => (method === "HEAD" ? fault : undefined);
    expect(foundIn(await registry.resolveBlob("a", blob.digest)).size).toBe(bytes.byteLength);
  });

  it("is unavailable when nobody tells the size", async () => {
    const { upstream, blob, registry } = await blobFor();
    upstream.intercept = () => ({ dropContentLength: true });
    expect((await registry.resolveBlob("a", blob.digest)).kind).toBe("unavailable");
    expect((await registry.getBlob("a", blob.digest)).kind).toBe("unavailable");
  });

  it.each(["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])(
    "is absent where the HEAD says %s, with one request",
    async (type) => {
      const { upstream, blob, registry } = await blobFor();
      upstream.intercept = () => ({ headers: { "content-type": type } });
      expect((await registry.resolveBlob("a", blob.digest)).kind).toBe("absent");
      expect(seen(upstream)).toEqual([`HEAD /v2/a/blobs/${blob.digest}`]);
    },
  );

  it("believes Content-Length: 0 of the empty blob alone, and asks by GET about others", async () => {
    const { upstream, blob, registry } = await blobFor();
    const empty = upstream.addBlob("a", Buffer.alloc(0));
    upstream.intercept = ({ method }) => (method === "HEAD" ? { wrongContentLength: 0 } : undefined);
    expect(foundIn(await registry.resolveBlob("a", blob.digest)).size).toBe(bytes.byteLength);
    expect(foundIn(await registry.resolveBlob("a", empty.digest)).size).toBe(0);
    const [there, none] = [`/v2/a/blobs/${blob.digest}`, `/v2/a/blobs/${empty.digest}`];
    expect(seen(upstream)).toEqual([`HEAD ${there}`, `GET ${there}`, `HEAD ${none}`]);
    upstream.intercept = ({ method }) => (method === "HEAD" ? { status: 200, wrongContentLength: 0 } : undefined);
    expect((await registry.resolveBlob("b", blob.digest)).kind).toBe("absent");
  });

  it.each<[string, Fault, "found" | "absent" | "unavailable"]>([
    ["the right bytes as a page", { headers: { "content-type": "text/html" } }, "found"],
    ["the right bytes in chunks", { dropContentLength: true }, "found"],
    ["a page", { body: "<html>sign in</html>", headers: { "content-type": "text/html" } }, "absent"],
    ["a page in chunks", { body: "<html></html>", dropContentLength: true, headers: { "content-type": "text/html" } }, "absent"],
    ["a large page", { body: "<p>".repeat(50_000), headers: { "content-type": "text/html" } }, "absent"],
    ["a page that breaks off", { truncateAfter: 10, headers: { "content-type": "text/html" } }, "unavailable"],
    ["other bytes in chunks", { corrupt: true, dropContentLength: true }, "unavailable"],
    ["nothing", { body: "", headers: { "content-type": "application/octet-stream" } }, "unavailable"],
  ])("where HEAD tells nothing and GET gives %s, the hash decides", async (_, fault, kind) => {
    const { upstream, blob, registry } = await blobFor(bytes.subarray(0, 1000));
    upstream.intercept = ({ method }) => (method === "HEAD" ? { status: 405 } : fault);
    const lookup = await registry.resolveBlob("a", blob.digest);
    expect(lookup.kind).toBe(kind);
    if (lookup.kind === "found") expect(lookup.value).toEqual(blob);
  });

  it("is absent for 404", async () => {
    const { blob, registry } = await blobFor();
    expect((await registry.resolveBlob("b", blob.digest)).kind).toBe("absent");
    expect((await registry.getBlob("b", blob.digest)).kind).toBe("absent");
  });
});

describe("getBlob", () => {
  it("streams the bytes", async () => {
    const { blob, registry } = await blobFor();
    const { descriptor, range, content } = foundIn(await registry.getBlob("a", blob.digest));
    expect([descriptor, range]).toEqual([blob, undefined]);
    expect((await readAll(open(content))).equals(bytes)).toBe(true);
    expect(() => open(content)).toThrow("opened before");
  });

  it("streams nothing for the empty blob", async () => {
    const { blob, registry } = await blobFor(new Uint8Array(0));
    expect((await readAll(open(foundIn(await registry.getBlob("a", blob.digest, { verify: false })).content))).byteLength).toBe(0);
  });

  it("takes the size from HEAD when a chunked body does not tell it", async () => {
    const { upstream, blob, registry } = await blobFor();
    upstream.intercept = ({ method }) => (method === "GET" ? { dropContentLength: true } : undefined);
    const { descriptor, content } = foundIn(await registry.getBlob("a", blob.digest));
    expect(descriptor.size).toBe(bytes.byteLength);
    expect((await readAll(open(content))).equals(bytes)).toBe(true);
  });

  it("believes the asker's size when a chunked body does not tell it, and holds the body to it", async () => {
    const { upstream, blob, registry } = await blobFor();
    upstream.intercept = () => ({ dropContentLength: true });
    for (const verify of [true, false]) {
      const { descriptor, content, unsized } = foundIn(await registry.getBlob("a", blob.digest, { size: bytes.byteLength, verify }));
      expect([descriptor, unsized]).toEqual([blob, undefined]);
      expect((await readAll(open(content))).equals(bytes)).toBe(true);
    }
    const part = foundIn(await registry.getBlob("a", blob.digest, { size: bytes.byteLength, range: { last: 10 }, verify: false }));
    expect(part.range).toEqual({ start: 299_990, end: 299_999, total: 300_000 });
    for (const size of [299_999, 300_001]) {
      const { content } = foundIn(await registry.getBlob("a", blob.digest, { size, verify: false }));
      await expect(readAll(open(content))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    }
    expect(upstream.requests.map(({ method }) => method)).toEqual(Array(5).fill("GET"));
  });

  it("prefers the upstream's own word on the size", async () => {
    const { blob, registry } = await blobFor();
    const { descriptor } = foundIn(await registry.getBlob("a", blob.digest, { size: 1, unsized: true, verify: false }));
    expect(descriptor.size).toBe(bytes.byteLength);
  });

  it("streams to the end of the answer for an asker that can do without a size", async () => {
    const { upstream, blob, registry } = await blobFor();
    upstream.intercept = () => ({ dropContentLength: true });
    for (const verify of [true, false]) {
      const { descriptor, content, unsized } = foundIn(await registry.getBlob("a", blob.digest, { unsized: true, verify }));
      expect([descriptor, unsized]).toEqual([{ ...blob, size: 0 }, true]);
      expect((await readAll(open(content))).equals(bytes)).toBe(true);
    }
    expect(seen(upstream)).toEqual(Array(2).fill(`GET /v2/a/blobs/${blob.digest}`));
    upstream.intercept = () => ({ dropContentLength: true, truncateAfter: 1000 });
    const cut = foundIn(await registry.getBlob("a", blob.digest, { unsized: true, verify: false }));
    await expect(readAll(open(cut.content))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    upstream.intercept = () => ({ dropContentLength: true, corrupt: true });
    const wrong = foundIn(await registry.getBlob("a", blob.digest, { unsized: true }));
    await expect(readAll(open(wrong.content))).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  const ranges: [ByteRange, number, number][] = [
    [{ start: 0, end: 0 }, 0, 0],
    [{ start: 100, end: 199 }, 100, 199],
    [{ start: 299_000 }, 299_000, 299_999],
    [{ start: 5, end: 10_000_000 }, 5, 299_999],
    [{ last: 10 }, 299_990, 299_999],
  ];
  const manners: [string, Fault | undefined][] = [
    ["answers 206", undefined],
    ["ignores it", { status: 200, body: bytes, headers: { "content-range": undefined } }],
    ["answers another part", { headers: { "content-range": "bytes 1-2/300000" } }],
    ["answers 206 without Content-Range", { headers: { "content-range": undefined } }],
    ["answers 206 with nonsense", { headers: { "content-range": "bytes 9-1/0" } }],
  ];
  it.each(manners)("honours ranges when the upstream %s", async (_, fault) => {
    const { upstream, blob, registry } = await blobFor();
    upstream.intercept = ({ headers }) => (headers.range ? fault : undefined);
    for (const [range, start, end] of ranges) {
      const value = foundIn(await registry.getBlob("a", blob.digest, { range, verify: false }));
      expect(value.range).toEqual({ start, end, total: bytes.byteLength });
      expect(value.descriptor.size).toBe(bytes.byteLength);
      expect((await readAll(open(value.content))).equals(bytes.subarray(start, end + 1))).toBe(true);
    }
  });

  it.each<[string, Fault | undefined]>([
    ["says 416", undefined],
    ["says 416 without the size", { headers: { "content-range": undefined } }],
    ["ignores it", { status: 200, body: bytes, headers: { "content-range": undefined } }],
  ])("throws RANGE_INVALID with the total outside the blob when the upstream %s", async (_, fault) => {
    const { upstream, blob, registry } = await blobFor();
    upstream.intercept = ({ headers }) => (headers.range ? fault : undefined);
    const asked = registry.getBlob("a", blob.digest, { range: { start: 300_000 }, verify: false });
    await expect(asked).rejects.toMatchObject({ code: "RANGE_INVALID", detail: { total: 300_000 } });
  });

  it.each<[string, Fault]>([
    ["truncated", { truncateAfter: 1000 }],
    ["truncated at once", { truncateAfter: 0 }],
    ["shorter than declared", { wrongContentLength: 300_001, truncateAfter: 300_000 }],
  ])("errors the stream of a %s body", async (_, fault) => {
    const { upstream, blob, registry } = await blobFor();
    upstream.intercept = () => fault;
    const { content } = foundIn(await registry.getBlob("a", blob.digest));
    await expect(readAll(open(content))).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  it("errors the stream of a chunked body of another length than HEAD stated", async () => {
    for (const other of [bytes.subarray(1), Buffer.concat([bytes, bytes])]) {
      const { upstream, blob, registry } = await blobFor();
      upstream.intercept = ({ method }) => (method === "GET" ? { body: other, dropContentLength: true } : undefined);
      const { content } = foundIn(await registry.getBlob("a", blob.digest));
      await expect(readAll(open(content))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    }
  });

  it("refuses a compressed body", async () => {
    const { upstream, blob, registry } = await blobFor();
    upstream.intercept = () => ({ headers: { "content-encoding": "gzip" } });
    expect(errorOf(await registry.getBlob("a", blob.digest)).message).toContain("compressed");
  });

  it("gives the response up when it is not opened within half a minute", async () => {
    const clock = fakeClock();
    const upstream = await upstreamFor();
    const blob = upstream.addBlob("a", 10_000_000);
    const registry = remoteFor(upstream, { clock });
    const late = foundIn(await registry.getBlob("a", blob.digest));
    const inTime = foundIn(await registry.getBlob("a", blob.digest));
    await clock.advance(29_000);
    const stream = open(inTime.content);
    await clock.advance(2000);
    await expect(readAll(open(late.content))).rejects.toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringContaining("not opened in time"),
    });
    expect((await readAll(stream)).byteLength).toBe(10_000_000);
  });

  it("ends with the signal, before and after it is opened", async () => {
    const upstream = await upstreamFor();
    const blob = upstream.addBlob("a", 10_000_000);
    upstream.intercept = () => ({ slowBytesPerSecond: 1_000_000 });
    const registry = remoteFor(upstream);
    const reason = new Error("enough");
    for (const when of ["before", "after"]) {
      const controller = new AbortController();
      const { content } = foundIn(await registry.getBlob("a", blob.digest, { signal: controller.signal }));
      const stream = when === "after" ? open(content) : undefined;
      setTimeout(() => controller.abort(reason), 50);
      if (!stream) await new Promise((resolve) => setTimeout(resolve, 100));
      await expect(readAll(stream ?? open(content))).rejects.toBe(reason);
    }
    const aborted = AbortSignal.abort(reason);
    await expect(registry.getBlob("a", blob.digest, { signal: aborted })).rejects.toBe(reason);
    upstream.intercept = () => ({ delay: 1000 });
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 30);
    await expect(registry.getBlob("a", blob.digest, { signal: controller.signal })).rejects.toBe(reason);
  });

  it("gives up the connection when a reader leaves, also while it waits", async () => {
    const upstream = await upstreamFor();
    const blob = upstream.addBlob("a", 10_000_000);
    upstream.intercept = () => ({ slowBytesPerSecond: 50_000 });
    const stream = open(foundIn(await remoteFor(upstream).getBlob("a", blob.digest)).content);
    stream.resume();
    await new Promise((resolve) => setTimeout(resolve, 60));
    const closed = new Promise((resolve) => stream.once("close", resolve));
    stream.destroy();
    await closed;
  });

  it("does not read ahead of a slow reader", async () => {
    const { blob, registry } = await blobFor(Buffer.alloc(20_000_000));
    const stream = open(foundIn(await registry.getBlob("a", blob.digest)).content);
    stream.once("readable", () => {});
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(stream.readableLength).toBeLessThan(1_000_000);
    expect((await readAll(stream)).byteLength).toBe(20_000_000);
  });
});
