import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";
import { type Content, cached } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, it } from "vitest";
import { errorOf, foundIn, readAll, remoteFor, upstreamFor } from "./support.js";

const codings: [string, (bytes: Uint8Array) => Uint8Array][] = [
  ["gzip", gzipSync],
  ["x-gzip", gzipSync],
  ["GZIP", gzipSync],
  ["deflate", deflateSync],
  ["br", brotliCompressSync],
];
const plain = ["", "identity", "aws-chunked", "binary"];

async function pulling() {
  const upstream = await upstreamFor();
  const image = upstream.addImage("a", "1", { layers: [1000] });
  const digest = image.layers[0]?.digest ?? "";
  const registry = remoteFor(upstream, { retries: 0 });
  const bytes = await bytesIn(foundIn(await registry.getBlob("a", digest)).content);
  return { upstream, image, digest, bytes, registry };
}

async function bytesIn(content: Content): Promise<Buffer> {
  if (content.kind === "bytes") return Buffer.from(content.bytes);
  if (content.kind !== "stream") throw new Error(`there is no stream but a ${content.kind}`);
  return Buffer.from(await readAll(content.open()));
}

describe("a content coding", () => {
  it.each(codings)("%s of manifests and lists is decoded, and the length of a HEAD in it is no size", async (coding, encode) => {
    const { upstream, image, registry } = await pulling();
    const tags = Buffer.from('{"tags":["1"]}');
    upstream.intercept = ({ url }) => ({
      body: encode(url.includes("/tags/") ? tags : image.bytes),
      headers: { "content-encoding": coding },
    });
    expect(foundIn(await registry.getManifest("a", "1")).descriptor).toMatchObject({ digest: image.digest, size: image.bytes.byteLength });
    expect(foundIn(await registry.resolveManifest("a", "1")).size).toBe(image.bytes.byteLength);
    expect(foundIn(await registry.listTags("a", { limit: 10 })).items).toEqual(["1"]);
  });

  it.each(plain)("that is none leaves the bytes as they are: %j", async (coding) => {
    const { upstream, image, digest, registry } = await pulling();
    upstream.intercept = () => ({ headers: { "content-encoding": coding } });
    foundIn(await registry.getManifest("a", image.digest));
    expect(foundIn(await registry.resolveBlob("a", digest)).size).toBe(1000);
    const { content } = foundIn(await registry.getBlob("a", digest, { verify: false }));
    expect(content.kind === "stream" && (await readAll(content.open())).byteLength).toBe(1000);
  });

  it("that is said of plain bytes is passed over", async () => {
    const { upstream, image, registry } = await pulling();
    upstream.intercept = () => ({ headers: { "content-encoding": "gzip" } });
    expect(foundIn(await registry.getManifest("a", image.digest)).descriptor.digest).toBe(image.digest);
  });

  it("that unfolds to more than an answer may have is refused, and of a blob it is named", async () => {
    const { upstream, digest, registry } = await pulling();
    upstream.intercept = () => ({ body: gzipSync(Buffer.alloc(32 * 1024 * 1024, " ")), headers: { "content-encoding": "gzip" } });
    expect(errorOf(await registry.getManifest("a", "1")).message).toContain("larger than");
    expect(errorOf(await registry.getBlob("a", digest, { verify: false })).message).toContain("compressed (gzip)");
  });

  const last = { start: 900, end: 999 };

  it.each(codings)("%s of a blob is told from a label by the size that the asker knows", async (coding, encode) => {
    const { upstream, digest, bytes, registry } = await pulling();
    let body: Uint8Array = bytes;
    upstream.intercept = () => ({ status: 200, body, headers: { "content-encoding": coding } });
    // The label of storage that was told of the gzip within the layer; then the body of a proxy that compresses.
    for (const sent of [bytes, encode(bytes)]) {
      body = sent;
      const whole = foundIn(await registry.getBlob("a", digest, { size: 1000, verify: false }));
      expect([whole.descriptor.size, await bytesIn(whole.content)]).toEqual([1000, bytes]);
      const part = foundIn(await registry.getBlob("a", digest, { size: 1000, range: last, verify: false }));
      expect([part.range, await bytesIn(part.content)]).toEqual([{ ...last, total: 1000 }, bytes.subarray(900)]);
    }
  });

  it("of a blob is told by the size of a HEAD without one, where the asker knows none", async () => {
    const { upstream, digest, bytes, registry } = await pulling();
    upstream.intercept = ({ method }) =>
      method === "HEAD" ? undefined : { body: gzipSync(bytes), headers: { "content-encoding": "gzip" } };
    for (const unsized of [false, true]) {
      const { content } = foundIn(await registry.getBlob("a", digest, { unsized, verify: false }));
      expect(await bytesIn(content)).toEqual(bytes);
    }
  });

  it.each([
    ["in it", (bytes: Uint8Array) => gzipSync(bytes)],
    ["only said to be in it", (bytes: Uint8Array) => bytes],
  ])("of layers passes a cache, whose manifests say how large they are: %s", async (_, encode) => {
    const { upstream, digest, bytes, registry } = await pulling();
    upstream.intercept = ({ url }) =>
      url.includes("/blobs/") ? { body: encode(bytes), headers: { "content-encoding": "gzip" } } : undefined;
    const cache = cached(registry, { storage: memoryStorage(), name: "hub" });
    foundIn(await cache.getManifest("a", "1"));
    const { content } = foundIn(await cache.getBlob("a", digest));
    expect(await bytesIn(content)).toEqual(bytes);
    await cache.close();
  });

  it("that a blob is not in ends it with an error, and no bytes", async () => {
    const { upstream, digest, bytes, registry } = await pulling();
    upstream.intercept = () => ({ body: bytes.subarray(1), headers: { "content-encoding": "br" } });
    const { content } = foundIn(await registry.getBlob("a", digest, { size: 1000, verify: false }));
    await expect(bytesIn(content)).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  it("is of a part only where the part's total is the blob's size", async () => {
    const { upstream, digest, bytes, registry } = await pulling();
    const encoded = gzipSync(bytes);
    upstream.intercept = ({ headers }) => {
      if (!headers.range) return { body: encoded, headers: { "content-encoding": "gzip" } };
      const part = { status: 206, body: encoded.subarray(900, 1000) };
      return { ...part, headers: { "content-encoding": "gzip", "content-range": `bytes 900-999/${encoded.byteLength}` } };
    };
    const { content } = foundIn(await registry.getBlob("a", digest, { size: 1000, range: last, verify: false }));
    expect(await bytesIn(content)).toEqual(bytes.subarray(900));
  });
});
