import { createHash } from "node:crypto";
import { request } from "node:http";
import { mediaTypes } from "oci-manifold";

/** What clients accept as a manifest. */
export const acceptManifests = [
  mediaTypes.ociIndex,
  mediaTypes.ociManifest,
  "application/vnd.docker.distribution.manifest.list.v2+json",
  "application/vnd.docker.distribution.manifest.v2+json",
].join(", ");

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly digest: string | null;
  /** The sha256 digest of the body. */
  readonly bodyDigest: string;
  readonly errorCode: string | undefined;
}

/** A GET as clients send it; the body is hashed, not kept, unless it is an error. */
export async function get(url: string): Promise<Answer> {
  const response = await fetch(url, { headers: { accept: acceptManifests } });
  const hash = createHash("sha256");
  let text = "";
  for await (const chunk of response.body ?? []) {
    hash.update(chunk);
    if (!response.ok) text += Buffer.from(chunk).toString();
  }
  const { status, headers } = response;
  return {
    status,
    headers,
    digest: headers.get("docker-content-digest"),
    bodyDigest: `sha256:${hash.digest("hex")}`,
    errorCode: response.ok || !headers.get("content-type")?.includes("json") ? undefined : JSON.parse(text).errors?.[0]?.code,
  };
}

/** Begins an upload; answers its absolute URL. */
export async function startUpload(origin: string, repository: string): Promise<string> {
  const response = await fetch(`${origin}/v2/${repository}/blobs/uploads/`, { method: "POST" });
  return uploadUrl(origin, response, 202);
}

/** The absolute URL in an answer's Location, which must have the expected status. */
export function uploadUrl(origin: string, response: Response, status: number): string {
  const location = response.headers.get("location");
  if (response.status !== status || location === null)
    throw new Error(`${response.url} answered ${response.status} with Location ${location}`);
  return new URL(location, origin).href;
}

export function withDigest(upload: string, digest: string): string {
  const url = new URL(upload);
  url.searchParams.set("digest", digest);
  return url.href;
}

/** How much of an upload has arrived, and where the next part goes. Waits while another request holds the upload, as Retry-After says. */
export async function uploadOffset(origin: string, upload: string): Promise<{ offset: number; location: string }> {
  const response = await fetch(upload);
  const pause = Number(response.headers.get("retry-after"));
  if (response.status === 503 && pause > 0) {
    await new Promise((resolve) => setTimeout(resolve, pause * 1000));
    return uploadOffset(origin, upload);
  }
  const location = uploadUrl(origin, response, 204);
  const last = Number(/^0-(\d+)$/.exec(response.headers.get("range") ?? "")?.[1]);
  return { offset: last === 0 ? 0 : last + 1, location };
}

/** Sends the bytes, and then neither more nor the end of the request. */
export async function stalledPatch(upload: string, bytes: Uint8Array): Promise<void> {
  const patch = request(upload, { method: "PATCH", headers: { "content-type": "application/octet-stream" } });
  patch.on("error", () => {});
  await new Promise((resolve) => patch.write(bytes, resolve));
}
