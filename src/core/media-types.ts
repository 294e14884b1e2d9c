export const mediaTypes = {
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociIndex: "application/vnd.oci.image.index.v1+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerList: "application/vnd.docker.distribution.manifest.list.v2+json",
  /** Deprecated by image-spec 1.1, still stored by some registries. */
  ociArtifact: "application/vnd.oci.artifact.manifest.v1+json",
  octetStream: "application/octet-stream",
} as const;

// As in descriptors, parameters included: sigstore's bundles have one. RFC 6838 section 4.2 restricts names; stricter than what HTTP allows, so that a stored type can go out as a header.
// Each character belongs to one part only: where spaces may be of either of two parts, eight parameters are tried in 65,536 ways.
const mediaTypePattern =
  /^[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}\/[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}(?: ?(?:;[\x20-\x3a\x3c-\x7e]{1,202}){1,8})?$/;

export function isMediaType(text: string): boolean {
  return mediaTypePattern.test(text);
}

/**
 * Layers of these types need not be present: the licence forbids their distribution (image-spec, "Non-Distributable Layers"). Docker's type has no compression, gzip or
 * zstd at its end.
 */
export function isNonDistributable(mediaType: string): boolean {
  return (
    mediaType.includes(".nondistributable.") || /^application\/vnd\.docker\.image\.rootfs\.foreign\.diff\.tar(?:[.+]\w+)?$/.test(mediaType)
  );
}
