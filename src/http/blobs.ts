import type { Content } from "../core/content.js";
import type { Digest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { absent, type Lookup } from "../core/lookup.js";
import { mediaTypes } from "../core/media-types.js";
import type { ByteRange, ResolvedRange } from "../core/range.js";
import type { BlobContent, Registry } from "../core/registry.js";
import { multipartBody } from "./byteranges.js";
import { lookupError } from "./errors.js";
import { apiVersion, type Exchange, emptyResponse, type WireHeaders, type WireResponse } from "./exchange.js";
import { addWarnings, isFresh, parseRanges, resolveRanges } from "./headers.js";

/** A digest names one content for ever. `no-transform` as everywhere. */
const immutable = "max-age=31536000, immutable, no-transform";

export async function headBlob(x: Exchange, source: Registry | undefined, repository: string, digest: Digest): Promise<WireResponse> {
  let lookup: Awaited<ReturnType<Registry["resolveBlob"]>>;
  try {
    lookup = source ? await source.resolveBlob(repository, digest, x.call) : absent;
  } catch (error) {
    throw isUpstreamFailure(error) ? blobUnknown(error) : error;
  }
  if (lookup.kind !== "found") {
    const error = lookupError(lookup, "BLOB_UNKNOWN", x.call.caller);
    throw isUpstreamFailure(error) ? blobUnknown(error) : error;
  }
  const { served, value } = lookup;
  if (isFresh(x.request.header("if-none-match"), digest)) return notModified(digest);
  const headers = blobHeaders(digest, value.size);
  addWarnings(headers, served.warnings);
  return { status: 200, headers, served };
}

/** skopeo aborts a whole push when a HEAD of a blob answers 503; a 404 at worst costs it an upload of what is there already. */
function isUpstreamFailure(error: unknown): boolean {
  return isRegistryError(error) && error.status > 500;
}

function blobUnknown(cause: unknown): RegistryError {
  return new RegistryError("BLOB_UNKNOWN", "not found", { cause });
}

export async function getBlob(x: Exchange, source: Registry | undefined, repository: string, digest: Digest): Promise<WireResponse> {
  const { request, call } = x;
  if (isFresh(request.header("if-none-match"), digest)) {
    const lookup = source ? await source.resolveBlob(repository, digest, call) : absent;
    if (lookup.kind !== "found") throw lookupError(lookup, "BLOB_UNKNOWN", call.caller);
    return notModified(digest);
  }
  const ranges = parseRanges(request.header("range"));
  const condition = ranges && request.header("if-range");
  // RFC 9110 section 13.1.5: a range of another content is of no use, then the whole blob is sent.
  const wanted = ranges && (condition === undefined || condition === `"${digest}"`) ? ranges : undefined;
  try {
    if (wanted && wanted.length > 1) return await getParts(x, source, repository, digest, wanted);
    const lookup = await ask(x, source, repository, digest, wanted?.[0]);
    if (lookup.kind !== "found") throw lookupError(lookup, "BLOB_UNKNOWN", call.caller);
    const { served, value } = lookup;
    const { content } = value;
    if (content.kind === "redirect") return { ...redirect(digest, content.url), served };
    const response = contentResponse(digest, value, content);
    addWarnings(response.headers, served.warnings);
    return { ...response, served };
  } catch (error) {
    if (isRegistryError(error) && error.code === "RANGE_INVALID") throw new UnsatisfiableRange(error);
    throw error;
  }
}

async function ask(
  { site, call }: Exchange,
  source: Registry | undefined,
  repository: string,
  digest: Digest,
  range: ByteRange | undefined,
): Promise<Lookup<BlobContent>> {
  // Not copied without need: that would make a signal for every request.
  const options = range || site.redirects ? { ...call, ...(range && { range }), ...(site.redirects && { redirect: true }) } : call;
  return source ? source.getBlob(repository, digest, options) : absent;
}

/** Several ranges at once. What can be had only as a whole, or is asked for twice, is answered as a whole. */
async function getParts(
  x: Exchange,
  source: Registry | undefined,
  repository: string,
  digest: Digest,
  ranges: readonly ByteRange[],
): Promise<WireResponse> {
  const size = source ? await source.resolveBlob(repository, digest, x.call) : absent;
  if (size.kind !== "found") throw lookupError(size, "BLOB_UNKNOWN", x.call.caller);
  const resolved = resolveRanges(ranges, size.value.size);
  const [first, second] = resolved === "whole" ? [] : resolved;
  const part = async (range: ResolvedRange | undefined) => {
    const lookup = await ask({ ...x, site: { ...x.site, redirects: false } }, source, repository, digest, range);
    if (lookup.kind !== "found") throw lookupError(lookup, "BLOB_UNKNOWN", x.call.caller);
    return lookup;
  };
  const { value, served } = await part(first);
  const { content } = value;
  if (content.kind === "redirect") throw new Error("a redirect that nobody asked for");
  if (resolved === "whole" || !second || !value.range) return { ...contentResponse(digest, value, content), served };
  const { body, contentType } = multipartBody(resolved, value, async (range) => {
    const next = (await part(range)).value;
    if (!next.range) throw new Error("a part was answered by the whole blob");
    return next;
  });
  const headers = { ...blobHeaders(digest, body.size), "Content-Type": contentType };
  addWarnings(headers, served.warnings);
  return { status: 206, headers, body, served };
}

/** A 416 must say how long the blob is. */
export class UnsatisfiableRange extends RegistryError {
  readonly headers: WireHeaders;

  constructor(error: RegistryError) {
    super("RANGE_INVALID", error.message, { detail: error.detail, cause: error });
    const { detail } = error;
    const total = typeof detail === "object" && detail !== null && "total" in detail ? detail.total : undefined;
    this.headers = typeof total === "number" ? { "Content-Range": `bytes */${total}` } : {};
  }
}

function contentResponse(
  digest: Digest,
  { descriptor, range }: BlobContent,
  content: Exclude<Content, { kind: "redirect" }>,
): WireResponse {
  const size = range ? range.end - range.start + 1 : descriptor.size;
  const headers = blobHeaders(digest, size);
  if (range) headers["Content-Range"] = `bytes ${range.start}-${range.end}/${range.total}`;
  return {
    status: range ? 206 : 200,
    headers,
    body: content.kind === "bytes" ? content : { kind: "stream", size, open: () => content.open() },
  };
}

function redirect(digest: Digest, url: string): WireResponse {
  if (!/^[\x21-\x7e]+$/.test(url)) throw new Error("a redirect that cannot be a Location header");
  // A presigned URL expires, so the redirect must not be kept though the blob may.
  return emptyResponse(307, { Location: url, "Docker-Content-Digest": digest, "Cache-Control": "no-store, no-transform" });
}

function notModified(digest: Digest): WireResponse {
  return emptyResponse(304, { "Docker-Content-Digest": digest, ETag: `"${digest}"`, "Cache-Control": immutable });
}

/** Anybody can push a blob that is a web page: served like this a browser neither renders nor runs it. */
function blobHeaders(digest: Digest, size: number): WireHeaders {
  return {
    "Docker-Distribution-API-Version": apiVersion,
    "Cache-Control": immutable,
    "Content-Type": mediaTypes.octetStream,
    "Content-Length": String(size),
    "Docker-Content-Digest": digest,
    ETag: `"${digest}"`,
    "Accept-Ranges": "bytes",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox",
  };
}

export async function deleteBlob(x: Exchange, repository: string, digest: Digest): Promise<WireResponse> {
  await x.site.registry.deleteBlob(repository, digest, x.call);
  return emptyResponse(202, {});
}
