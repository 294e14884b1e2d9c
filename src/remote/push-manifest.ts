import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, digestOf } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { parseManifest } from "../core/manifest.js";
import { parseTag, type Reference } from "../core/name.js";
import type { PutManifestOptions } from "../core/registry.js";
import type { FallbackIndexes } from "./fallback-index.js";
import { addressOf, statedDigest } from "./manifests.js";
import { headerOf, type UpstreamResponse } from "./transport.js";
import { pushScope, type Upstream } from "./upstream.js";
import { type Refusals, sendWrite } from "./write-errors.js";

const refusals: Refusals = { absent: "NAME_UNKNOWN", absentSaysMore: true, tooLarge: "MANIFEST_INVALID", invalid: "MANIFEST_INVALID" };

export interface ManifestPush {
  readonly repository: string;
  readonly reference: Reference;
  readonly bytes: Uint8Array;
  readonly mediaType: string;
  readonly signal?: AbortSignal | undefined;
  readonly tags?: readonly string[];
  readonly ifMatch?: string | undefined;
  readonly ifNoneMatch?: "*" | undefined;
}

/**
 * Stores a manifest, and does by further requests what an older registry leaves to its clients: tags it did not take from the query, and the fallback tag of
 * a manifest with a subject.
 * @throws RegistryError DIGEST_INVALID when the bytes are not the digest they are pushed under; UNAVAILABLE when the upstream stored others.
 */
export async function pushManifest(
  upstream: Upstream,
  fallback: FallbackIndexes,
  repository: string,
  reference: Reference,
  content: { readonly bytes: Uint8Array; readonly mediaType?: string },
  o: PutManifestOptions = {},
): Promise<Descriptor> {
  const { bytes } = content;
  const manifest = parseManifest(bytes, content.mediaType);
  const { mediaType, subject, artifactType, annotations } = manifest;
  if (reference.kind === "digest" && digestOf(bytes, algorithmOf(reference.digest)) !== reference.digest) {
    throw new RegistryError("DIGEST_INVALID", `${upstream.name}: the manifest's bytes are not ${reference.digest}`);
  }
  const tags = [...new Set((o.tags ?? []).map(parseTag))];
  const push = { repository, bytes, mediaType, signal: o.signal };
  const response = await putManifest(upstream, { ...push, reference, tags, ifMatch: o.ifMatch, ifNoneMatch: o.ifNoneMatch });
  const digest = reference.kind === "digest" ? reference.digest : (statedDigest(response) ?? digestOf(bytes));
  const taken = takenTags(response);
  for (const tag of tags) if (!taken.has(tag)) await putManifest(upstream, { ...push, reference: { kind: "tag", tag } });
  const descriptor = { mediaType, digest, size: bytes.byteLength };
  if (subject && headerOf(response, "oci-subject") === undefined) {
    const referrer = { ...descriptor, ...(artifactType && { artifactType }), ...(annotations && { annotations }) };
    await fallback.add(upstream, repository, subject.digest, referrer, o.signal);
  }
  return descriptor;
}

/** One PUT, its answer checked. */
export async function putManifest(upstream: Upstream, push: ManifestPush): Promise<UpstreamResponse> {
  const { bytes, mediaType, tags = [], ifMatch, ifNoneMatch, signal } = push;
  const { path, what } = addressOf(push.repository, push.reference);
  const response = await sendWrite(upstream, {
    method: "PUT",
    path: tags.length > 0 ? `${path}?${new URLSearchParams(tags.map((tag): [string, string] => ["tag", tag]))}` : path,
    scope: pushScope(push.repository),
    what,
    signal,
    body: bytes,
    headers: {
      "content-type": mediaType,
      ...(ifMatch !== undefined && { "if-match": `"${ifMatch}"` }),
      ...(ifNoneMatch !== undefined && { "if-none-match": ifNoneMatch }),
    },
    accept: [200, 201, 202, 204],
    refusals,
  });
  const stated = headerOf(response, "docker-content-digest");
  const known = statedDigest(response);
  if (stated !== undefined && (!known || digestOf(bytes, algorithmOf(known)) !== known)) {
    throw new RegistryError("UNAVAILABLE", `${upstream.name}: ${what}: the upstream says that it stored something else`);
  }
  return response;
}

/** Tags that came with the digest, as far as the upstream says that it took them. (distribution-spec 1.2) */
function takenTags(response: UpstreamResponse): ReadonlySet<string> {
  const lines = [response.headers["oci-tag"] ?? []].flat();
  return new Set(lines.flatMap((line) => line.split(",")).map((tag) => tag.trim()));
}
