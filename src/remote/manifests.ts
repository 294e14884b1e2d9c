import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, digestOf, isDigest } from "../core/digest.js";
import { found, type Lookup, mapFound } from "../core/lookup.js";
import { detectMediaType, manifestSizeLimit } from "../core/manifest.js";
import { isMediaType, mediaTypes } from "../core/media-types.js";
import type { Reference } from "../core/name.js";
import type { ManifestContent } from "../core/registry.js";
import { failureOfError, unavailable } from "./failures.js";
import {
  contentLength,
  contentType,
  discard,
  headerOf,
  headFallbacks,
  isRedirect,
  readCapped,
  type UpstreamResponse,
} from "./transport.js";
import { pullScope, type Upstream } from "./upstream.js";

/** Without the list types Docker's registry answers with one platform's manifest, or converts. The wildcard comes last, for other artifacts. */
const acceptManifests = [
  mediaTypes.ociIndex,
  mediaTypes.ociManifest,
  mediaTypes.dockerList,
  mediaTypes.dockerManifest,
  mediaTypes.ociArtifact,
  "*/*",
].join(", ");

/** By HEAD, which does not count against Docker Hub's pull limit; by GET where HEAD does not tell enough (ECR may omit the digest). */
export async function resolveRemoteManifest(
  upstream: Upstream,
  repository: string,
  reference: Reference,
  signal: AbortSignal | undefined,
): Promise<Lookup<Descriptor>> {
  const reply = await upstream.send({ method: "HEAD", ...question(repository, reference, signal), accept: headFallbacks });
  if (reply.kind !== "response") return reply;
  discard(reply.response);
  const descriptor = describe(reply.response, reference);
  if (descriptor) return found(descriptor, { member: [upstream.name] });
  return mapFound(await getRemoteManifest(upstream, repository, reference, signal), (content) => content.descriptor);
}

/** By GET, verified: the bytes hash to the digest that was asked for, or to the one the upstream says the tag has. */
export async function getRemoteManifest(
  upstream: Upstream,
  repository: string,
  reference: Reference,
  signal: AbortSignal | undefined,
): Promise<Lookup<ManifestContent>> {
  const asked = question(repository, reference, signal);
  const reply = await upstream.send({ method: "GET", ...asked, countsAsPull: true });
  if (reply.kind !== "response") return reply;
  const what = `${upstream.name}: ${asked.what}`;
  let bytes: Uint8Array;
  try {
    bytes = await readCapped(reply.response, manifestSizeLimit);
  } catch (error) {
    return failureOfError(error, what, signal);
  }
  const expected = reference.kind === "digest" ? reference.digest : statedDigest(reply.response);
  const digest = digestOf(bytes, expected ? algorithmOf(expected) : "sha256");
  if (expected && digest !== expected)
    return unavailable(`${what}: the bytes do not match the digest: expected ${expected}, got ${digest}`);
  const mediaType = statedMediaType(reply.response) ?? detectMediaType(bytes);
  if (!mediaType) return unavailable(`${what}: the answer is no manifest`);
  return found({ descriptor: { mediaType, digest, size: bytes.byteLength }, bytes }, { member: [upstream.name] });
}

function question(repository: string, reference: Reference, signal: AbortSignal | undefined) {
  return { ...addressOf(repository, reference), scope: pullScope(repository), headers: { accept: acceptManifests }, signal };
}

/** Where a manifest is, and what messages call it. */
export function addressOf(repository: string, reference: Reference): { readonly path: string; readonly what: string } {
  const text = reference.kind === "digest" ? reference.digest : reference.tag;
  return { path: `/v2/${repository}/manifests/${text}`, what: `manifest ${text} of ${repository}` };
}

function describe(response: UpstreamResponse, reference: Reference): Descriptor | undefined {
  const digest = statedDigest(response);
  const size = contentLength(response);
  const mediaType = statedMediaType(response);
  // No manifest has no bytes: some proxies answer every HEAD with `Content-Length: 0`.
  if (isRedirect(response.status) || response.status !== 200 || !digest || !size || !mediaType) return undefined;
  return reference.kind === "digest" && reference.digest !== digest ? undefined : { mediaType, digest, size };
}

/** The digest in an answer, if it says one this library can check. */
export function statedDigest(response: UpstreamResponse) {
  const text = headerOf(response, "docker-content-digest");
  return text !== undefined && isDigest(text) ? text : undefined;
}

/** The Content-Type, if it says more than "some JSON": static file servers used as registries send general types, portals text/html. */
function statedMediaType(response: UpstreamResponse): string | undefined {
  const text = contentType(response);
  if (!text || !isMediaType(text) || !text.startsWith("application/")) return undefined;
  return text === mediaTypes.octetStream || text === "application/json" ? undefined : text;
}
