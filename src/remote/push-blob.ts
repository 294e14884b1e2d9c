import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, Hasher } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { mediaTypes } from "../core/media-types.js";
import { type BlobAddress, resolveRemoteBlob } from "./blobs.js";
import { MeasuredSource } from "./measured-source.js";
import type { UpstreamResponse } from "./transport.js";
import { pullScope, pushScope, type Upstream } from "./upstream.js";
import { postUpload, type UploadStart, UpstreamUpload } from "./upstream-upload.js";

export interface BlobPush {
  readonly repository: string;
  readonly digest: Digest;
  readonly size: number | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * POST, one streamed PATCH, PUT: what docker does, so every registry takes it. The bytes are hashed on the way, and wrong ones cancelled before the upstream
 * has to find out.
 * @throws RegistryError SIZE_INVALID or DIGEST_INVALID when the bytes are others; what the source throws.
 */
export async function pushBlob(upstream: Upstream, push: BlobPush, source: AsyncIterable<Uint8Array>): Promise<Descriptor> {
  const { repository, digest, size, signal } = push;
  const algorithm = algorithmOf(digest);
  const upload = await UpstreamUpload.start(upstream, repository, { algorithm, signal });
  const hasher = new Hasher(algorithm);
  const measured = new MeasuredSource(source, { length: size, hasher });
  try {
    await transfer(upload, measured, push);
    if (hasher.digest() !== digest)
      throw new RegistryError("DIGEST_INVALID", `${upstream.name}: the bytes given for upload are not ${digest}`);
    await upload.finish(digest, signal);
  } catch (error) {
    const abandoned = upload.abandon();
    if (!signal?.aborted) await abandoned;
    throw error;
  }
  return { mediaType: mediaTypes.octetStream, digest, size: measured.sent };
}

async function transfer(upload: UpstreamUpload, measured: MeasuredSource, { size, signal }: BlobPush): Promise<void> {
  try {
    if (size === 0) for await (const _ of measured);
    // Without Content-Range, as docker and skopeo send a whole blob.
    else if ((await upload.patch(measured, { length: size, isConfirmed: true, signal })).kind !== "taken" || !measured.finished) {
      throw new RegistryError("UNAVAILABLE", "the upstream did not take the whole blob");
    }
  } catch (error) {
    throw measured.failure?.error ?? error;
  }
  if (measured.failure) throw measured.failure.error;
}

/**
 * POST with `mount`. An upstream that cannot opens an upload instead, which is not wanted here.
 * @param from absent: from wherever the upstream has it.
 */
export async function mountRemoteBlob(
  upstream: Upstream,
  question: BlobAddress,
  from: string | undefined,
): Promise<Descriptor | undefined> {
  const { repository, digest, signal } = question;
  const query = new URLSearchParams({ mount: digest, ...(from !== undefined && { from }) });
  const scope = [pushScope(repository), ...(from !== undefined ? [pullScope(from)] : [])].join(" ");
  const start = { repository, query, scope, signal };
  const response = await postUpload(upstream, start, [201, 202]).catch((error: unknown) => {
    // What is refused can be uploaded; if that is refused too, it says why. (Quay refuses a mount without source; others answer 404 or 403 for the source.)
    if (isRegistryError(error) && error.status < 500 && error.code !== "TOOMANYREQUESTS") return undefined;
    throw error;
  });
  if (!response) return undefined;
  if (response.status === 202) {
    await abandonOpened(upstream, start, response);
    return undefined;
  }
  const mounted = await resolveRemoteBlob(upstream, question);
  if (mounted.kind === "found") return mounted.value;
  if (mounted.kind === "denied" || mounted.kind === "unavailable") throw mounted.error;
  throw new RegistryError("UNAVAILABLE", `${upstream.name}: blob ${digest} was mounted in ${repository}, but is not there`);
}

async function abandonOpened(upstream: Upstream, start: UploadStart, response: UpstreamResponse): Promise<void> {
  let upload: UpstreamUpload;
  try {
    upload = new UpstreamUpload(upstream, start, response);
  } catch {
    // A location that would be refused for an upload: it is left to the upstream.
    return;
  }
  await upload.abandon();
}
