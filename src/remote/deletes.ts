import type { Digest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { followManifest, type Manifest } from "../core/manifest.js";
import type { Reference } from "../core/name.js";
import type { DeleteManifestOptions } from "../core/registry.js";
import { addressOf, getRemoteManifest } from "./manifests.js";
import type { ReferrersTags } from "./push-manifest.js";
import { hasReferrersApi } from "./referrers.js";
import { deleteScope, type Upstream } from "./upstream.js";
import { sendWrite } from "./write-errors.js";

/** 202 by the specification; the others are seen. */
const deleted = [200, 202, 204];

/** A tag, or a manifest. Where the upstream has no referrers API, a manifest with a subject is taken out of the referrers tag's index afterwards. */
export async function deleteRemoteManifest(
  upstream: Upstream,
  referrersTags: ReferrersTags,
  repository: string,
  reference: Reference,
  o: DeleteManifestOptions = {},
): Promise<void> {
  const { signal, ifMatch } = o;
  // Read before it is gone; after the DELETE, because one that is refused (GHCR: 405) must leave the manifest listed.
  const subject = reference.kind === "digest" ? await subjectListedByTag(upstream, repository, reference, signal) : undefined;
  const sent = sendWrite(upstream, {
    method: "DELETE",
    ...addressOf(repository, reference),
    scope: deleteScope(repository),
    signal,
    accept: deleted,
    refusals: { absent: "MANIFEST_UNKNOWN", tooLarge: "MANIFEST_INVALID", invalid: "MANIFEST_INVALID" },
    ...(ifMatch !== undefined && { headers: { "if-match": `"${ifMatch}"` } }),
  });
  await sent.catch((error: unknown) => {
    // docker-registry 2 deletes by digest only, and says so by calling the tag a bad digest.
    const refusesTags = reference.kind === "tag" && isRegistryError(error) && error.code === "DIGEST_INVALID";
    throw refusesTags ? new RegistryError("UNSUPPORTED", error.message) : error;
  });
  if (subject && reference.kind === "digest") await referrersTags.remove(upstream, repository, subject, reference.digest, signal);
}

export async function deleteRemoteBlob(
  upstream: Upstream,
  repository: string,
  digest: Digest,
  signal: AbortSignal | undefined,
): Promise<void> {
  await sendWrite(upstream, {
    method: "DELETE",
    path: `/v2/${repository}/blobs/${digest}`,
    what: `blob ${digest} of ${repository}`,
    scope: deleteScope(repository),
    signal,
    accept: deleted,
    refusals: { absent: "BLOB_UNKNOWN", tooLarge: "SIZE_INVALID", invalid: "DIGEST_INVALID" },
  });
}

/** The subject of a manifest that only a referrers tag lists. What cannot be read is left to the DELETE. */
async function subjectListedByTag(
  upstream: Upstream,
  repository: string,
  reference: Reference,
  signal: AbortSignal | undefined,
): Promise<Digest | undefined> {
  const lookup = await getRemoteManifest(upstream, repository, reference, signal);
  if (lookup.kind !== "found") return undefined;
  let manifest: Manifest;
  try {
    manifest = followManifest(lookup.value.bytes, lookup.value.descriptor.mediaType);
  } catch {
    return undefined;
  }
  const subject = manifest.subject?.digest;
  return subject && !(await hasReferrersApi(upstream, repository, subject, signal)) ? subject : undefined;
}
