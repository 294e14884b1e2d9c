import { createHash, randomBytes } from "node:crypto";
import { digestOf } from "oci-manifold/extend";
import { beforeAll, expect, test } from "vitest";
import { makeImage } from "../fixtures/images.js";
import { get, stalledPatch, startUpload, uploadOffset, uploadUrl, withDigest } from "../interop/http.js";
import { requires } from "../interop/requires.js";
import { growthDuring } from "./memory.js";
import { pushImageOf, pushPatterned } from "./patterned.js";
import { type S3Node, startNode } from "./s3-node.js";
import { clientFor, createBucket, keys, leftoversIn, type S3Server, startS3 } from "./s3-server.js";

const MiB = 2 ** 20;
const repository = "release/app";
const sha256 = (bytes: Uint8Array) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

async function patch(url: string, bytes: Uint8Array, start: number): Promise<Response> {
  const headers = { "content-range": `${start}-${start + bytes.byteLength - 1}` };
  const response = await fetch(url, { method: "PATCH", headers, body: bytes });
  // Another node may still hold the upload; Retry-After says how long to wait.
  const pause = Number(response.headers.get("retry-after"));
  if (response.status !== 503 || pause === 0) return response;
  await new Promise((resolve) => setTimeout(resolve, pause * 1000));
  return patch(url, bytes, start);
}

requires(
  "radosgw",
  "ceph-mon",
  "ceph-osd",
  "ceph",
)("a registry over S3", () => {
  let server: S3Server;
  let client: Awaited<ReturnType<typeof clientFor>>;
  let bucket: string;
  let node: S3Node;
  let other: S3Node;

  beforeAll(async () => {
    server = await startS3("blue");
    client = await clientFor({ endpoint: server.endpoint, ...keys });
    bucket = await createBucket(client);
    node = await startNode(server, bucket);
    other = await startNode(server, bucket, { folder: node.folder, redirects: true });
  });

  test("takes an image on one node and gives it on the other", async () => {
    const image = makeImage([100, 3 * MiB, 20 * MiB]);
    for (const [digest, bytes] of image.blobs) {
      const put = await fetch(withDigest(await startUpload(node.origin, repository), digest), { method: "PUT", body: bytes });
      uploadUrl(node.origin, put, 201);
    }
    const headers = { "content-type": "application/vnd.oci.image.manifest.v1+json" };
    const pushed = await fetch(`${node.origin}/v2/${repository}/manifests/1`, { method: "PUT", headers, body: image.manifest });
    expect(pushed.status).toBe(201);
    expect(await get(`${other.origin}/v2/${repository}/manifests/1`)).toMatchObject({ status: 200, bodyDigest: image.digest });
    for (const { origin } of [node, other])
      for (const digest of image.blobs.keys())
        expect(await get(`${origin}/v2/${repository}/blobs/${digest}`)).toMatchObject({ status: 200, bodyDigest: digest });
    expect(await leftoversIn(client, bucket)).toEqual([]);
  });

  test("takes an upload whose requests go to two nodes in turn, in pieces that fit no part", async () => {
    const layer = randomBytes(41 * MiB + 13);
    const upload = new URL(await startUpload(node.origin, repository));
    const pieces = [5, 3 * MiB, 9 * MiB + 1, 1, 16 * MiB, 7, layer.byteLength];
    let start = 0;
    for (const [turn, size] of pieces.entries()) {
      const at = turn % 2 === 0 ? other.origin : node.origin;
      const piece = layer.subarray(start, Math.min(start + size, layer.byteLength));
      const answer = await patch(new URL(upload.pathname, at).href, piece, start);
      start += piece.byteLength;
      expect([answer.status, answer.headers.get("range")]).toEqual([202, `0-${start - 1}`]);
    }
    expect(start).toBe(layer.byteLength);
    const done = await fetch(withDigest(new URL(upload.pathname, node.origin).href, digestOf(layer)), { method: "PUT" });
    expect(done.status).toBe(201);
    expect(await get(`${node.origin}/v2/${repository}/blobs/${digestOf(layer)}`)).toMatchObject({ status: 200, bodyDigest: sha256(layer) });
    expect(await leftoversIn(client, bucket)).toEqual([]);
  });

  test("sends pulls to the bucket, where ranges work and the bytes are no page", async () => {
    const layer = randomBytes(10 * MiB);
    const put = await fetch(withDigest(await startUpload(node.origin, repository), digestOf(layer)), { method: "PUT", body: layer });
    expect(put.status).toBe(201);
    const url = `${other.origin}/v2/${repository}/blobs/${digestOf(layer)}`;
    const sent = await fetch(url, { redirect: "manual" });
    expect(sent.status).toBe(307);
    expect(sent.headers.get("location")).toMatch(new RegExp(`^${server.endpoint}/${bucket}/registry/blobs/`));
    expect(await get(url)).toMatchObject({ status: 200, bodyDigest: sha256(layer) });
    const range = await fetch(sent.headers.get("location") ?? "", { headers: { range: "bytes=1000-1999" } });
    expect([range.status, range.headers.get("content-type")]).toEqual([206, "application/octet-stream"]);
    expect(Buffer.from(await range.arrayBuffer())).toEqual(layer.subarray(1000, 2000));
  });

  test("goes on with an upload whose node was killed within a request, from what was answered for", async () => {
    const doomed = await startNode(server, bucket, { folder: node.folder });
    const layer = randomBytes(40 * MiB);
    const upload = new URL(await startUpload(doomed.origin, repository));
    const first = await patch(upload.href, layer.subarray(0, 11 * MiB), 0);
    expect(first.status).toBe(202);
    await stalledPatch(upload.href, layer.subarray(11 * MiB, 35 * MiB));
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await doomed.process.stop("SIGKILL");

    const here = new URL(upload.pathname, node.origin).href;
    // The record says nothing of the killed node's last request.
    const { offset } = await uploadOffset(node.origin, here);
    expect(offset).toBe(11 * MiB);
    expect((await patch(here, layer.subarray(offset), offset)).status).toBe(202);
    const done = await fetch(withDigest(here, digestOf(layer)), { method: "PUT" });
    expect(done.status).toBe(201);
    expect(await get(`${node.origin}/v2/${repository}/blobs/${digestOf(layer)}`)).toMatchObject({ status: 200, bodyDigest: sha256(layer) });
    expect(await leftoversIn(client, bucket)).toEqual([]);
  });

  test("leaves nothing of an upload that is cancelled after a node was killed", async () => {
    const doomed = await startNode(server, bucket, { folder: node.folder });
    const upload = new URL(await startUpload(doomed.origin, repository));
    await stalledPatch(upload.href, randomBytes(20 * MiB));
    await expect.poll(() => leftoversIn(client, bucket)).toContainEqual(expect.stringMatching(/^upload to /));
    await doomed.process.stop("SIGKILL");
    const cancelled = await fetch(new URL(upload.pathname, node.origin), { method: "DELETE" });
    expect(cancelled.status).toBe(204);
    expect(await leftoversIn(client, bucket)).toEqual([]);
  });

  test("of 2 GiB a layer is pushed and pulled with flat memory", async () => {
    const fresh = await startNode(server, bucket);
    await pushPatterned(fresh.origin, repository, 48, 1);
    let digest = "";
    const pushing = await growthDuring(fresh.process.pid, async () => {
      digest = await pushPatterned(fresh.origin, repository, 2048, 2);
      await pushImageOf(fresh.origin, repository, { digest, size: 2048 * MiB });
    });
    const pulling = await growthDuring(fresh.process.pid, async () => {
      const pulled = await get(`${fresh.origin}/v2/${repository}/blobs/${digest}`);
      expect(pulled).toMatchObject({ status: 200, bodyDigest: digest });
    });
    console.log(`growth in MB over S3: push ${pushing.toFixed()}, pull ${pulling.toFixed()}`);
    expect(pushing).toBeLessThan(150);
    expect(pulling).toBeLessThan(150);
    expect(await leftoversIn(client, bucket)).toEqual([]);
  });
});
