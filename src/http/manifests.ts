import { wholeBody } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { parseDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { absent, type Served } from "../core/lookup.js";
import { manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { isTag, parseReference, parseTag } from "../core/name.js";
import type { PutManifestOptions, Registry } from "../core/registry.js";
import { lookupError } from "./errors.js";
import {
  admittedTo,
  apiVersion,
  countedBody,
  type Exchange,
  emptyResponse,
  parametersOf,
  untransformed,
  type WireHeaders,
  type WireResponse,
} from "./exchange.js";
import { addWarnings, entityTags, isFresh, manifestTypeHeaders } from "./headers.js";

/** distribution-spec 1.2 asks for ten or more; a release pipeline pushes a handful. */
export const tagParameterLimit = 100;

/** GET and HEAD. */
export async function readManifest(
  x: Exchange,
  source: Registry | undefined,
  repository: string,
  reference: string,
): Promise<WireResponse> {
  const byDigest = reference.includes(":");
  if (byDigest) parseDigest(reference);
  // A malformed tag cannot exist. The conformance program asks for ".INVALID_MANIFEST_NAME" and expects 404, not 400.
  else if (!isTag(reference)) throw new RegistryError("MANIFEST_UNKNOWN", "not found");
  const control = byDigest ? undefined : x.request.header("cache-control");
  const call = control && (await mayRefresh(x, control, repository, reference)) ? { ...x.call, refresh: true } : x.call;
  if (x.head) {
    const lookup = source ? await source.resolveManifest(repository, reference, call) : absent;
    if (lookup.kind !== "found") throw lookupError(lookup, "MANIFEST_UNKNOWN", x.call.caller);
    return manifestResponse(x, lookup.value, byDigest ? reference : lookup.value.digest, lookup.served);
  }
  const lookup = source ? await source.getManifest(repository, reference, call) : absent;
  if (lookup.kind !== "found") throw lookupError(lookup, "MANIFEST_UNKNOWN", x.call.caller);
  const { descriptor, bytes } = lookup.value;
  return manifestResponse(x, descriptor, byDigest ? reference : descriptor.digest, lookup.served, bytes);
}

/** An administrator's way to have a tag looked at now: `Cache-Control: no-cache`, as for any HTTP cache. No client for images sends it by itself. */
async function mayRefresh(x: Exchange, control: string, repository: string, reference: string): Promise<boolean> {
  if (!/\bno-cache\b/i.test(control)) return false;
  const { caller } = x.call;
  try {
    await x.site.policy.admit({ action: "refresh", repository, reference, ...(caller && { caller }) });
    return true;
  } catch (error) {
    if (isRegistryError(error) && error.status < 500) return false;
    throw error;
  }
}

function manifestResponse(x: Exchange, descriptor: Descriptor, digest: string, served: Served, bytes?: Uint8Array): WireResponse {
  const fresh = isFresh(x.request.header("if-none-match"), digest);
  if (fresh) return { ...emptyResponse(304, { "Docker-Content-Digest": digest, ETag: `"${digest}"` }), served };
  const headers: WireHeaders = {
    "Docker-Distribution-API-Version": apiVersion,
    "Cache-Control": untransformed,
    ...manifestTypeHeaders(descriptor),
    "Content-Length": String(bytes ? bytes.byteLength : descriptor.size),
    "Docker-Content-Digest": digest,
    ETag: `"${digest}"`,
    "X-Content-Type-Options": "nosniff",
  };
  if (served.warnings) addWarnings(headers, served.warnings);
  return bytes ? { status: 200, headers, body: { kind: "bytes", bytes }, served } : { status: 200, headers, served };
}

export async function putManifest(x: Exchange, repository: string, text: string): Promise<WireResponse> {
  const reference = parseReference(text);
  const tags = parametersOf(x).getAll("tag");
  if (tags.length > tagParameterLimit) {
    throw new RegistryError("MANIFEST_INVALID", `more than ${tagParameterLimit} tag parameters: push again with fewer`, { status: 414 });
  }
  if (tags.length > 0 && reference.kind === "tag") {
    throw new RegistryError("MANIFEST_INVALID", "tag parameters are for a manifest pushed by digest");
  }
  for (const tag of tags) parseTag(tag);
  if ((x.request.bodyLength ?? 0) > manifestSizeLimit) throw tooLarge();
  const precondition = await preconditionOf(x, repository, text);
  // Counted as it streams: many clients send manifests chunked, with no length to check before.
  const bytes = await wholeBody(countedBody(x), manifestSizeLimit, tooLarge);
  const contentType = x.request.header("content-type");
  const descriptor = await x.site.registry.putManifest(
    repository,
    text,
    { bytes, ...(contentType && { mediaType: contentType }) },
    { ...(tags.length > 0 && { tags }), ...precondition, ...x.call },
  );
  const digest = reference.kind === "digest" ? reference.digest : descriptor.digest;
  const subject = subjectOf(bytes, contentType);
  return emptyResponse(201, {
    Location: `/v2/${repository}/manifests/${digest}`,
    "Docker-Content-Digest": digest,
    ETag: `"${digest}"`,
    ...(subject !== undefined && { "OCI-Subject": subject }),
    ...(tags.length > 0 && { "OCI-Tag": [...new Set(tags)] }),
  });
}

/** A tag: only the tag. A digest: the manifest with all its tags, so a caller that may not delete one of them may not delete the manifest. */
export async function deleteManifest(x: Exchange, repository: string, reference: string): Promise<WireResponse> {
  if (reference.includes(":")) parseDigest(reference);
  else if (!isTag(reference)) throw new RegistryError("MANIFEST_UNKNOWN", "not found");
  const match = x.request.header("if-match");
  const ifMatch = match === undefined ? undefined : await standing(x, repository, reference, match);
  const warnings: string[] = [];
  const warn = (message: string) => void warnings.push(message);
  const permits = (tag: string) => mayDelete(x, repository, reference, tag);
  await x.site.registry.deleteManifest(repository, reference, {
    ...x.call,
    warn,
    ...(ifMatch !== undefined && { ifMatch }),
    ...(!x.site.policy.isUniform && { permits }),
  });
  const headers = {};
  addWarnings(headers, warnings);
  return emptyResponse(202, headers);
}

async function mayDelete(x: Exchange, repository: string, digest: string, tag: string): Promise<boolean> {
  try {
    await admittedTo(x, "delete", repository, tag, undefined);
    return true;
  } catch (error) {
    if (!isRegistryError(error) || error.code !== "DENIED") throw error;
    // The tag is not named: who may not delete it may not be one who may know it.
    throw new RegistryError("DENIED", `${digest} has a tag that you may not delete, and would take it along: delete the others by name`, {
      cause: error,
    });
  }
}

/** Tells the client that the subject was understood, so that it need not maintain a referrers tag (distribution-spec, "Pushing Manifests with Subject"). */
function subjectOf(bytes: Uint8Array, contentType: string | undefined): string | undefined {
  // Most manifests have none: a search costs less than reading 4 MiB of JSON a second time. An escaped key ("\u0073ubject") is legal.
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!text.includes('"subject"') && !text.includes("\\u")) return undefined;
  return parseManifest(bytes, contentType).subject?.digest;
}

/**
 * If-Match with one digest and `If-None-Match: *` go to the registry, which decides at the moment of the write. A list or `*` in If-Match is
 * first narrowed to the digest that it points to now.
 */
async function preconditionOf(
  x: Exchange,
  repository: string,
  reference: string,
): Promise<Pick<PutManifestOptions, "ifMatch" | "ifNoneMatch">> {
  const none = x.request.header("if-none-match");
  if (none !== undefined) {
    if (none.trim() === "*") return { ifNoneMatch: "*" };
    throw new RegistryError("UNSUPPORTED", "a push takes If-None-Match only with *", { status: 400 });
  }
  const match = x.request.header("if-match");
  return match === undefined ? {} : { ifMatch: await standing(x, repository, reference, match) };
}

/** The one digest of an If-Match header that the registry has to find at the moment of the change. */
async function standing(x: Exchange, repository: string, reference: string, match: string): Promise<string> {
  const tags = entityTags(match, "strong");
  const [only] = tags;
  if (tags.length === 1 && only !== undefined && only !== "*") return only;
  const lookup = await x.site.registry.resolveManifest(repository, reference, x.call);
  if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookup.error;
  const current = lookup.kind === "found" ? lookup.value.digest : undefined;
  if (current !== undefined && (tags.includes("*") || tags.includes(current))) return current;
  throw new RegistryError("PRECONDITION_FAILED", "the reference points to none of the digests in If-Match");
}

function tooLarge(): RegistryError {
  return new RegistryError("MANIFEST_INVALID", `the manifest is larger than ${manifestSizeLimit} bytes`, { status: 413 });
}
