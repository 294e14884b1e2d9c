import { type Digest, type DigestAlgorithm, digestAlgorithms, isDigest, parseDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { isRepositoryName } from "../core/name.js";
import type { UploadSession } from "../core/registry.js";
import { bodyOf, type Exchange, emptyResponse, parametersOf, type WireHeaders, type WireResponse } from "./exchange.js";
import { mountedBlob } from "./mounts.js";

/** POST: a mount, a whole blob, or a new session. */
export async function startUpload(x: Exchange, repository: string): Promise<WireResponse> {
  const parameters = parametersOf(x);
  const { registry } = x.site;
  const mount = parameters.get("mount");
  const from = parameters.get("from");
  // What cannot be mounted, a malformed digest among it, is uploaded: no client expects an error here.
  if (mount !== null && isDigest(mount) && (from === null || isRepositoryName(from))) {
    const mounted = await mountedBlob(x, repository, mount, from ?? undefined);
    if (mounted) return created(repository, mounted.digest);
  }
  const algorithm = announcedAlgorithm(parameters.get("digest-algorithm"));
  const whole = parameters.get("digest");
  if (whole !== null && mount === null) {
    const digest = parseDigest(whole);
    const size = x.request.bodyLength;
    const descriptor = await registry.putBlob(repository, { digest, ...(size !== undefined && { size }) }, bodyOf(x), x.call);
    return created(repository, descriptor.digest);
  }
  const session = await registry.startUpload(repository, algorithm ? { ...x.call, algorithm } : x.call);
  return emptyResponse(202, sessionHeaders(repository, session));
}

/** PATCH: the next chunk, or a stream of unknown length. */
export async function appendUpload(x: Exchange, repository: string, id: string): Promise<WireResponse> {
  const session = await runningSession(x, repository, id);
  await append(x, repository, session, () => bodyOf(x));
  return emptyResponse(202, sessionHeaders(repository, session));
}

/** PUT: the last chunk, where there is one, then the blob. */
export async function finishUpload(x: Exchange, repository: string, id: string): Promise<WireResponse> {
  const text = parametersOf(x).get("digest");
  if (text === null) throw new RegistryError("DIGEST_INVALID", "an upload is closed with ?digest=<the blob's digest>");
  const digest = parseDigest(text);
  const session = await x.site.registry.resumeUpload(repository, id, x.call);
  // A client that lost the answer sends the same PUT again, body and all.
  if (session.committed === digest) return created(repository, digest);
  if (session.committed) throw isOver(session.committed);
  const body = await nonEmptyBody(x);
  // Some clients repeat the last chunk's Content-Range on the empty PUT that closes the upload: it means nothing there.
  if (body) await append(x, repository, session, body);
  const descriptor = await session.commit(digest).catch((error) => {
    // A crash has lost bytes: the client may send them again.
    if (isRegistryError(error) && error.code === "RANGE_INVALID") throw outOfOrder(repository, session);
    throw error;
  });
  return created(repository, descriptor.digest);
}

/** GET: how far the upload has come. */
export async function uploadStatus(x: Exchange, repository: string, id: string): Promise<WireResponse> {
  const session = await runningSession(x, repository, id);
  return emptyResponse(204, sessionHeaders(repository, session));
}

export async function cancelUpload(x: Exchange, repository: string, id: string): Promise<WireResponse> {
  const session = await runningSession(x, repository, id);
  await session.cancel();
  return emptyResponse(204, {});
}

async function runningSession(x: Exchange, repository: string, id: string): Promise<UploadSession> {
  const session = await x.site.registry.resumeUpload(repository, id, x.call);
  if (session.committed) throw isOver(session.committed);
  return session;
}

function isOver(digest: Digest): RegistryError {
  return new RegistryError("BLOB_UPLOAD_UNKNOWN", `this upload is over: it became ${digest}`);
}

/** An out-of-order chunk: the client learns the offset of the session, and may go on from there. */
export class OutOfOrder extends RegistryError {
  readonly headers: WireHeaders;

  constructor(message: string, repository: string, session: UploadSession) {
    super("RANGE_INVALID", message);
    this.headers = sessionHeaders(repository, session);
  }
}

/** The body, if it has any bytes. Of a chunked one that is known once its first chunk came: no more than that is read here. */
async function nonEmptyBody(x: Exchange): Promise<(() => AsyncIterable<Uint8Array>) | undefined> {
  const { bodyLength } = x.request;
  if (bodyLength === 0) return undefined;
  if (bodyLength !== undefined || x.request.header("content-range") === undefined) return () => bodyOf(x);
  const chunks = bodyOf(x)[Symbol.asyncIterator]();
  const first = await chunks.next();
  if (first.done) return undefined;
  return () => resumed(first.value, chunks);
}

async function* resumed(first: Uint8Array, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield first;
    yield* { [Symbol.asyncIterator]: () => rest };
  } finally {
    await rest.return?.();
  }
}

async function append(x: Exchange, repository: string, session: UploadSession, body: () => AsyncIterable<Uint8Array>): Promise<void> {
  const { request, call } = x;
  const header = request.header("content-range");
  // Decided before the body is read: the conformance program sends chunks out of order and expects the session to survive them.
  const range = header === undefined ? undefined : parseUploadRange(header);
  if (header !== undefined && !range) throw new OutOfOrder("Content-Range must be <first byte>-<last byte>", repository, session);
  if (range && range.start !== session.offset) throw outOfOrder(repository, session);
  const { bodyLength } = request;
  if (range && bodyLength !== undefined && bodyLength !== range.length) {
    throw new RegistryError("SIZE_INVALID", `Content-Range names ${range.length} bytes, the body has ${bodyLength}`);
  }
  try {
    await session.append(body(), { ...range, ...(call.signal && { signal: call.signal }) });
  } catch (error) {
    // Another writer was faster than the check above.
    if (isRegistryError(error) && error.code === "RANGE_INVALID") throw outOfOrder(repository, session);
    throw error;
  }
}

function outOfOrder(repository: string, session: UploadSession): OutOfOrder {
  return new OutOfOrder(`the next byte of this upload is ${session.offset}`, repository, session);
}

function created(repository: string, digest: string): WireResponse {
  return emptyResponse(201, { Location: `/v2/${repository}/blobs/${digest}`, "Docker-Content-Digest": digest });
}

function sessionHeaders(repository: string, session: UploadSession): WireHeaders {
  return {
    Location: `/v2/${repository}/blobs/uploads/${encodeURIComponent(session.id)}`,
    Range: uploadRange(session.offset),
    "Docker-Upload-UUID": session.id,
  };
}

function announcedAlgorithm(text: string | null): DigestAlgorithm | undefined {
  if (text === null) return undefined;
  const algorithm = digestAlgorithms.find((known) => known === text);
  if (algorithm) return algorithm;
  throw new RegistryError("DIGEST_INVALID", `unknown digest algorithm: this registry knows ${digestAlgorithms.join(" and ")}`);
}

/** The Content-Range of an upload's part, which is the specification's own and has neither unit nor total: `0-1023`. `undefined` when malformed. */
export function parseUploadRange(header: string): { start: number; length: number } | undefined {
  const match = /^(\d+)-(\d+)$/.exec(header);
  if (!match) return undefined;
  const start = Number(match[1]);
  const end = Number(match[2]);
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || end < start) return undefined;
  return { start, length: end - start + 1 };
}

/** The Range header of an upload session. An empty one says `0-0`, as docker's own registry does. */
export function uploadRange(offset: number): string {
  return `0-${Math.max(0, offset - 1)}`;
}
