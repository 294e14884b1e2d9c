import type { Descriptor } from "./descriptor.js";
import type { Digest } from "./digest.js";
import { RegistryError } from "./errors.js";
import type { Manifest } from "./manifest.js";
import { isNonDistributable } from "./media-types.js";

/** The blobs and manifests that must be known before a manifest may be stored. The subject may come later or never (distribution-spec, "Referrers"). */
export function requiredReferences(manifest: Manifest): { blobs: readonly Descriptor[]; children: readonly Descriptor[] } {
  const layers = manifest.layers.filter((layer) => !isNonDistributable(layer.mediaType));
  const blobs = manifest.config ? [manifest.config, ...layers] : layers;
  const distinct = new Map(blobs.map((descriptor) => [descriptor.digest, descriptor]));
  return { blobs: [...distinct.values()], children: manifest.children };
}

/**
 * What a stored manifest keeps where it is here, and leads whoever may pull it to, each digest once. Also blobs that need not be here: a client that pushed a
 * non-distributable layer wants to pull it again. Also children, since BuildKit's older cache layout lists blobs in an index. Not the subject: it does not need
 * to be here, and nobody pulls it for the sake of this manifest.
 */
export function keptReferences({ config, layers, children }: Manifest): readonly Descriptor[] {
  const all = [...(config ? [config] : []), ...layers, ...children];
  return [...new Map(all.map((descriptor) => [descriptor.digest, descriptor])).values()];
}

export function missingReference(descriptor: Descriptor): RegistryError {
  return new RegistryError(
    "MANIFEST_BLOB_UNKNOWN",
    `the manifest refers to ${descriptor.digest} (${descriptor.mediaType}), which this repository does not have: push or mount it first`,
    { detail: { digest: descriptor.digest, mediaType: descriptor.mediaType } },
  );
}

/** Where the index of a subject's referrers is tagged in a registry without the referrers API. (distribution-spec, "Referrers Tag Schema") */
export function referrersTag(subject: Digest): string {
  const [algorithm = "", encoded = ""] = subject.split(":");
  return `${algorithm.slice(0, 32)}-${encoded.slice(0, 64)}`;
}
