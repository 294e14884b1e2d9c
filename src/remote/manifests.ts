import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, digestOf, isDigest } from "../core/digest.js";
import { found, type Lookup, mapFound, permanentlyDenied } from "../core/lookup.js";
import { detectMediaType, isManifestType, manifestSizeLimit } from "../core/manifest.js";
import { isMediaType, mediaTypes } from "../core/media-types.js";
import type { Reference } from "../core/name.js";
import type { ManifestContent } from "../core/registry.js";
import { chargeTurn, unitsOfBytes } from "../core/turn-budget.js";
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

/** By HEAD, which does not count against Docker Hub's pull quota; by GET where HEAD does not say enough (ECR may omit the digest). */
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
  const detected = detectMediaType(bytes);
  const mediaType = statedMediaType(reply.response) ?? detected;
  if (mediaType === undefined) return unavailable(`${what}: the answer is no manifest`);
  if (isSchema1(mediaType, bytes)) return permanentlyDenied(what, schema1);
  // Anything may be stored under a digest, which proves it. What a tag points to is proved by nothing: a portal's page, or an error with status 200, is no manifest.
  if (reference.kind === "tag" && !isManifestType(mediaType) && detected === undefined && !looksLikeManifest(bytes))
    return unavailable(`${what}: the answer is no manifest`);
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
  // What it is said to be is no manifest that is known: the body decides.
  if (reference.kind === "tag" && !(mediaType && isManifestType(mediaType))) return undefined;
  // No manifest has no bytes: some proxies answer every HEAD with `Content-Length: 0`.
  if (isRedirect(response.status) || response.status !== 200 || !digest || !size || !mediaType) return undefined;
  return reference.kind === "digest" && reference.digest !== digest ? undefined : { mediaType, digest, size };
}

/** What registries of before 2016 stored, and some still convert to: its digest is not that of its bytes, and its layers are listed twice. */
const schema1 = "it is a manifest of schema 1, which is not served: push the image again with a client of these years";

function isSchema1(mediaType: string, bytes: Uint8Array): boolean {
  if (mediaType.startsWith("application/vnd.docker.distribution.manifest.v1+")) return true;
  return !isManifestType(mediaType) && schemaVersionOf(bytes) === 1;
}

/** A JSON object that says `schemaVersion: 2`, as every manifest of image-spec does. */
function looksLikeManifest(bytes: Uint8Array): boolean {
  return schemaVersionOf(bytes) === 2;
}

function schemaVersionOf(bytes: Uint8Array): unknown {
  chargeTurn(unitsOfBytes(bytes.byteLength));
  try {
    const body: unknown = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString());
    return typeof body === "object" && body !== null && "schemaVersion" in body ? body.schemaVersion : undefined;
  } catch {
    return undefined;
  }
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
