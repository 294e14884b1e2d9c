import type { Descriptor } from "../core/descriptor.js";
import type { Manifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import { isOneOf, namesPlatform } from "../core/platform.js";

/** Which children of an index come with it. */
export type ChildrenPolicy = "all" | "on demand" | { readonly platforms: readonly string[] };

const manifestTypes: ReadonlySet<string> = new Set([
  mediaTypes.ociManifest,
  mediaTypes.ociIndex,
  mediaTypes.dockerManifest,
  mediaTypes.dockerList,
  mediaTypes.ociArtifact,
]);

/** BuildKit: the annotation that tells which manifest a child of the platform `unknown/unknown` attests. */
const attestedDigest = "vnd.docker.reference.digest";

/** BuildKit's older cache layout lists blobs as children of an index. */
export function isBlob(child: Descriptor): boolean {
  return !manifestTypes.has(child.mediaType);
}

/**
 * The children for these platforms (`os/architecture` or `os/architecture/variant`), and those that belong to them or to no platform: attestations, nested
 * indexes, blobs. Each digest once.
 *
 * @param platforms absent: all children.
 */
export function childrenFor({ children }: Manifest, platforms: readonly string[] | undefined): Descriptor[] {
  const distinct = [...new Map(children.map((child) => [child.digest, child])).values()];
  if (!platforms) return distinct;
  const chosen = new Set<string>();
  for (const { digest, platform } of distinct) if (namesPlatform(platform) && isOneOf(platform, platforms)) chosen.add(digest);
  return distinct.filter(({ digest, platform, annotations }) => {
    const attested = annotations?.[attestedDigest];
    return attested === undefined ? chosen.has(digest) || !namesPlatform(platform) : chosen.has(attested);
  });
}

/** Whether an index has images for platforms, but none for these. */
export function lacks(manifest: Manifest, platforms: readonly string[] | undefined): boolean {
  return platforms !== undefined && manifest.children.length > 0 && childrenFor(manifest, platforms).length === 0;
}
