import { randomBytes } from "node:crypto";
import { digestOf } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { get, stalledPatch, startUpload, uploadOffset, uploadUrl, withDigest } from "../interop/http.js";
import { startAgain, startMainJob } from "../interop/main-job.js";

/** Sends what is missing; waits while the request that was cut off still holds the upload, as Retry-After says. */
async function sendRest(origin: string, upload: string, layer: Uint8Array): Promise<string> {
  const { offset, location } = await uploadOffset(origin, upload);
  const rest = await fetch(location, { method: "PATCH", body: layer.subarray(offset) });
  const pause = Number(rest.headers.get("retry-after"));
  if (rest.status !== 503 || pause === 0) return uploadUrl(origin, rest, 202);
  await new Promise((resolve) => setTimeout(resolve, pause * 1000));
  return sendRest(origin, upload, layer);
}

test("an upload that kill -9 cut off within a request goes on after a restart", async () => {
  const first = await startMainJob();
  const layer = randomBytes(12_000_000);
  const upload = await startUpload(first.origin, "release/app");
  await stalledPatch(upload, layer.subarray(0, 7_000_000));
  await first.process.stop("SIGKILL");

  const second = await startAgain(first);
  const digest = digestOf(layer);
  const done = await fetch(withDigest(await sendRest(second.origin, upload, layer), digest), { method: "PUT" });
  expect(done.status).toBe(201);
  expect(await get(`${second.origin}/v2/release/app/blobs/${digest}`)).toMatchObject({ status: 200, bodyDigest: digest });
});
