import type { Descriptor } from "../core/descriptor.js";
import { isManifestType, type Manifest } from "../core/manifest.js";
import { isOneOf, namesPlatform } from "../core/platform.js";

/** Which children of an index come with it. */
export type ChildrenPolicy = "all" | "on demand" | { readonly platforms: readonly string[] };

/** BuildKit: the annotation that tells which manifest a child of the platform `unknown/unknown` attests. */
const attestedDigest = "vnd.docker.reference.digest";

/** Whether a child of an index is a blob: BuildKit's older cache layout lists some. */
export function isBlob(child: Descriptor): boolean {
  return !isManifestType(child.mediaType);
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
