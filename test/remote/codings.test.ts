import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";
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
  return { upstream, image, digest: image.layers[0]?.digest ?? "", registry: remoteFor(upstream, { retries: 0 }) };
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
});
