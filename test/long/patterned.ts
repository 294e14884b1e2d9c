import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { request } from "node:http";
import { pipeline } from "node:stream/promises";
import { expect } from "vitest";
import { startUpload, uploadUrl, withDigest } from "../interop/http.js";

const MiB = 1024 * 1024;
const seed = randomBytes(MiB);

/** So many MiB that are never in memory as a whole, each different. The same for the same `salt`. */
export function* patterned(mebibytes: number, salt: number): Generator<Buffer> {
  for (let block = 0; block < mebibytes; block++) {
    const bytes = Buffer.from(seed);
    bytes.writeUInt32BE(salt, 0);
    bytes.writeUInt32BE(block, 4);
    yield bytes;
  }
}

export function patternedDigest(mebibytes: number, salt: number): string {
  const hash = createHash("sha256");
  for (const block of patterned(mebibytes, salt)) hash.update(block);
  return `sha256:${hash.digest("hex")}`;
}

/** Pushes as docker does: POST, one PATCH of unannounced length, an empty PUT. */
export async function pushPatterned(origin: string, repository: string, mebibytes: number, salt: number): Promise<string> {
  const digest = patternedDigest(mebibytes, salt);
  const patch = request(await startUpload(origin, repository), {
    method: "PATCH",
    headers: { "content-type": "application/octet-stream" },
  });
  const answered = once(patch, "response");
  await pipeline(patterned(mebibytes, salt), patch);
  const [response] = await answered;
  response.resume();
  expect(response.statusCode).toBe(202);
  const put = await fetch(withDigest(new URL(response.headers.location, origin).href, digest), { method: "PUT" });
  uploadUrl(origin, put, 201);
  return digest;
}

/** An image of this one layer, tagged `1`. */
export async function pushImageOf(origin: string, repository: string, layer: { digest: string; size: number }): Promise<void> {
  const config = Buffer.from('{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}');
  const digest = `sha256:${createHash("sha256").update(config).digest("hex")}`;
  const put = await fetch(withDigest(await startUpload(origin, repository), digest), { method: "PUT", body: config });
  uploadUrl(origin, put, 201);
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const manifest = await fetch(`${origin}/v2/${repository}/manifests/1`, {
    method: "PUT",
    headers: { "content-type": mediaType },
    body: JSON.stringify({
      schemaVersion: 2,
      mediaType,
      config: { mediaType: "application/vnd.oci.image.config.v1+json", digest, size: config.byteLength },
      layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar", ...layer }],
    }),
  });
  expect(manifest.status).toBe(201);
}
