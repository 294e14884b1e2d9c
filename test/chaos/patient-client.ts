import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { withDigest } from "../interop/http.js";

/** An image as a client has it before a push, or wants it after a pull. */
export interface ClientImage {
  readonly manifest: Uint8Array;
  readonly digest: string;
  readonly blobs: ReadonlyMap<string, Uint8Array>;
}

/** Broken connections, and answers that ask for patience, are tried again for so long, as clients do. Milliseconds. */
const patience = 90_000;
const pause = 200;

interface Answered {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Buffer;
}

async function once(url: string, init: RequestInit = {}): Promise<Answered> {
  const response = await fetch(url, init);
  return { status: response.status, headers: response.headers, body: Buffer.from(await response.arrayBuffer()) };
}

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Until somebody answers with something else than "try again". Not for requests that change an upload. */
async function patiently(url: string, init: RequestInit = {}): Promise<Answered> {
  for (const since = Date.now(); ; ) {
    const answer = await once(url, init).catch((error: unknown) => error);
    if (!(answer instanceof Error)) {
      const { status, headers, body } = answer as Answered;
      if (![429, 502, 503].includes(status)) return { status, headers, body };
      await wait(Number(headers.get("retry-after") ?? 0) * 1000);
    }
    if (Date.now() - since > patience) throw new Error(`no answer from ${init.method ?? "GET"} ${url}`, { cause: answer });
    await wait(pause);
  }
}

/** Pulls until it has an image, byte for byte. */
export async function pull(origin: string, repository: string, tag: string): Promise<ClientImage> {
  const { status, body, headers } = await patiently(`${origin}/v2/${repository}/manifests/${tag}`, {
    headers: { accept: mediaTypes.ociManifest },
  });
  if (status !== 200) throw new Error(`${repository}:${tag} is answered with ${status}: ${body}`);
  const digest = digestOf(body);
  if (headers.get("docker-content-digest") !== digest) throw new Error(`${repository}:${tag} is not what its digest says`);
  const { config, layers } = JSON.parse(body.toString()) as { config: { digest: string }; layers: { digest: string }[] };
  const wanted = [...new Set([config, ...layers].map((one) => one.digest))];
  const blobs = await Promise.all(wanted.map(async (one) => [one, await pullBlob(origin, repository, one)] as const));
  return { manifest: body, digest, blobs: new Map(blobs) };
}

async function pullBlob(origin: string, repository: string, digest: string): Promise<Uint8Array> {
  const { status, body } = await patiently(`${origin}/v2/${repository}/blobs/${digest}`);
  if (status !== 200) throw new Error(`${repository} answers ${status} for ${digest}: ${body}`);
  if (digestOf(body) !== digest) throw new Error(`${repository} gave other bytes than ${digest}`);
  return body;
}

/** Pushes as docker does: blobs first, each unless it is there, then the manifest. Resolves when all was acknowledged. */
export async function push(origin: string, repository: string, tag: string, image: ClientImage): Promise<void> {
  await Promise.all([...image.blobs].map(([digest, bytes]) => pushBlob(origin, repository, digest, bytes)));
  await putManifest(origin, repository, tag, image);
}

export async function putManifest(origin: string, repository: string, tag: string, { manifest, digest }: ClientImage): Promise<void> {
  const headers = { "content-type": mediaTypes.ociManifest };
  const { status, body } = await patiently(`${origin}/v2/${repository}/manifests/${tag}`, { method: "PUT", headers, body: manifest });
  if (status !== 201) throw new Error(`the manifest ${digest} of ${repository} is answered with ${status}: ${body}`);
}

async function pushBlob(origin: string, repository: string, digest: string, bytes: Uint8Array): Promise<void> {
  for (const since = Date.now(); Date.now() - since < patience; ) {
    const there = await patiently(`${origin}/v2/${repository}/blobs/${digest}`, { method: "HEAD" });
    if (there.status === 200) return;
    const begun = await patiently(`${origin}/v2/${repository}/blobs/uploads/`, { method: "POST" });
    if (begun.status !== 202) throw new Error(`an upload to ${repository} is answered with ${begun.status}: ${begun.body}`);
    if (await upload(new URL(begun.headers.get("location") ?? "", origin).href, digest, bytes)) return;
  }
  throw new Error(`${digest} could not be pushed to ${repository}`);
}

/** In pieces, each of which may reach another node. False when the upload is lost, and is to be begun anew. */
async function upload(url: string, digest: string, bytes: Uint8Array): Promise<boolean> {
  const pieces = 1 + Math.floor(Math.random() * 3);
  for (let offset: number | undefined = 0; offset !== undefined; ) {
    if (offset === bytes.byteLength) {
      const put = await once(withDigest(url, digest), { method: "PUT" }).catch(() => undefined);
      if (put?.status === 201) return true;
      if (put && ![404, 416, 503].includes(put.status))
        throw new Error(`the commit of ${digest} is answered with ${put.status}: ${put.body}`);
    } else {
      const piece = bytes.subarray(offset, offset + Math.ceil(bytes.byteLength / pieces));
      const headers = { "content-range": `${offset}-${offset + piece.byteLength - 1}`, "content-type": "application/octet-stream" };
      const patched = await once(url, { method: "PATCH", headers, body: piece }).catch(() => undefined);
      if (patched?.status === 202) {
        offset += piece.byteLength;
        continue;
      }
      if (patched && ![404, 416, 503].includes(patched.status))
        throw new Error(`a piece of ${digest} is answered with ${patched.status}: ${patched.body}`);
    }
    await wait(pause);
    offset = await offsetOf(url);
  }
  return false;
}

/** How far an upload is, as somebody says who knows. `undefined` when it has ended. */
async function offsetOf(url: string): Promise<number | undefined> {
  const { status, headers } = await patiently(url);
  if (status !== 204) return undefined;
  const last = Number(/^0-(\d+)$/.exec(headers.get("range") ?? "")?.[1]);
  return last === 0 ? 0 : last + 1;
}
