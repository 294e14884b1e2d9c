/**
 * Pushing manifests to an upstream. `pushManifest` sends one, and what an older registry leaves to its clients by further requests. `ReferrersTags` is the largest part of that: the lists of
 * referrers that clients maintain where a registry has no referrers API. How they are read is in `referrers.ts`.
 */
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, digestOf } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { KeyedQueues } from "../core/keyed-queues.js";
import { manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import { parseTag, type Reference } from "../core/name.js";
import { referrersTag } from "../core/references.js";
import type { PutManifestOptions } from "../core/registry.js";
import { addressOf, getRemoteManifest, statedDigest } from "./manifests.js";
import { headerOf, listedIn, parseJsonObject, type UpstreamResponse } from "./transport.js";
import { pushScope, type Upstream } from "./upstream.js";
import { type Refusals, sendWrite } from "./write-errors.js";

const refusals: Refusals = { absent: "NAME_UNKNOWN", absentSaysMore: true, tooLarge: "MANIFEST_INVALID", invalid: "MANIFEST_INVALID" };

interface ManifestPush {
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
 * Stores a manifest, then what an older registry leaves to its clients: each tag that it did not take from the query, and the referrers tag of
 * a manifest with a subject.
 * @throws RegistryError DIGEST_INVALID when the bytes are not the digest they are pushed under; UNAVAILABLE when the upstream stored others.
 */
export async function pushManifest(
  upstream: Upstream,
  referrersTags: ReferrersTags,
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
  const response = await putRemoteManifest(upstream, { ...push, reference, tags, ifMatch: o.ifMatch, ifNoneMatch: o.ifNoneMatch });
  const digest = reference.kind === "digest" ? reference.digest : (statedDigest(response) ?? digestOf(bytes));
  const taken = takenTags(response);
  for (const tag of tags) if (!taken.has(tag)) await putRemoteManifest(upstream, { ...push, reference: { kind: "tag", tag } });
  const descriptor = { mediaType, digest, size: bytes.byteLength };
  if (subject && headerOf(response, "oci-subject") === undefined) {
    const referrer = { ...descriptor, ...(artifactType && { artifactType }), ...(annotations && { annotations }) };
    await referrersTags.add(upstream, repository, subject.digest, referrer, o.signal);
  }
  return descriptor;
}

/** One PUT, its answer checked. */
async function putRemoteManifest(upstream: Upstream, push: ManifestPush): Promise<UpstreamResponse> {
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
  return new Set(listedIn(response, "oci-tag"));
}

/** Other clients change the same index; each conflict means that one of them got through. */
const attempts = 5;

/** What the index lists, changed; `undefined` when there is nothing to change. */
type Edit = (listed: readonly unknown[]) => readonly unknown[] | undefined;

/**
 * The lists of referrers that clients maintain where a registry has no referrers API: an index under a tag made from the subject's digest. (distribution-spec,
 * "Referrers Tag Schema")
 */
export class ReferrersTags {
  /** By index. Registries that have no referrers API mostly ignore If-Match too. */
  readonly #queues = new KeyedQueues();

  /** Lists a referrer, once. @throws RegistryError when the index cannot be read or written. */
  add(upstream: Upstream, repository: string, subject: Digest, referrer: Descriptor, signal: AbortSignal | undefined): Promise<void> {
    return this.#edit(upstream, repository, subject, signal, (listed) =>
      listed.some((entry) => digestIn(entry) === referrer.digest) ? undefined : [...listed, referrer],
    );
  }

  /** Takes a referrer out. @throws RegistryError when the index cannot be read or written. */
  remove(upstream: Upstream, repository: string, subject: Digest, referrer: Digest, signal: AbortSignal | undefined): Promise<void> {
    return this.#edit(upstream, repository, subject, signal, (listed) => {
      const rest = listed.filter((entry) => digestIn(entry) !== referrer);
      return rest.length === listed.length ? undefined : rest;
    });
  }

  async #edit(upstream: Upstream, repository: string, subject: Digest, signal: AbortSignal | undefined, edit: Edit): Promise<void> {
    const tag = referrersTag(subject);
    await this.#queues.run(`${repository}:${tag}`, () => this.#attempt(upstream, repository, tag, signal, edit));
  }

  async #attempt(upstream: Upstream, repository: string, tag: string, signal: AbortSignal | undefined, edit: Edit): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const current = await this.#read(upstream, repository, tag, signal);
      const manifests = edit(current.listed);
      if (!manifests) return;
      const bytes = Buffer.from(JSON.stringify({ ...current.index, manifests }));
      if (bytes.byteLength > manifestSizeLimit) throw this.#unusable(upstream, repository, tag, "is full");
      const precondition = current.digest === undefined ? { ifNoneMatch: "*" as const } : { ifMatch: current.digest };
      try {
        const reference = { kind: "tag", tag } as const;
        await putRemoteManifest(upstream, { repository, reference, bytes, mediaType: mediaTypes.ociIndex, signal, ...precondition });
        return;
      } catch (error) {
        if (!isRegistryError(error) || error.code !== "PRECONDITION_FAILED" || attempt === attempts) throw error;
      }
    }
  }

  async #read(upstream: Upstream, repository: string, tag: string, signal: AbortSignal | undefined) {
    const tagged = await getRemoteManifest(upstream, repository, { kind: "tag", tag }, signal);
    if (tagged.kind === "absent") return { index: { schemaVersion: 2, mediaType: mediaTypes.ociIndex }, listed: [] };
    if (tagged.kind === "denied" || tagged.kind === "unavailable") throw tagged.error;
    // The tag is an ordinary one. What anybody has put there is not overwritten.
    if (tagged.kind !== "found" || tagged.value.descriptor.mediaType !== mediaTypes.ociIndex) {
      throw this.#unusable(upstream, repository, tag, "holds something other than an index");
    }
    const { bytes, descriptor } = tagged.value;
    try {
      parseManifest(bytes, mediaTypes.ociIndex);
      const index = parseJsonObject(bytes);
      // As they are: entries of other clients may hold fields that are unknown here.
      return { index, listed: Array.isArray(index.manifests) ? index.manifests : [], digest: descriptor.digest };
    } catch {
      throw this.#unusable(upstream, repository, tag, "holds no valid index");
    }
  }

  #unusable(upstream: Upstream, repository: string, tag: string, why: string): RegistryError {
    return new RegistryError("UNAVAILABLE", `${upstream.name}: the tag ${tag} of ${repository}, which lists referrers, ${why}`);
  }
}

function digestIn(entry: unknown): unknown {
  return typeof entry === "object" && entry !== null && "digest" in entry ? entry.digest : undefined;
}
