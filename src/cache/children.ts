import type { Descriptor, Platform } from "../core/descriptor.js";
import type { Manifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";

/** Which children of an index come with it. */
export type ChildrenPolicy = "all" | "on demand" | { readonly platforms: readonly string[] };

const manifestTypes: ReadonlySet<string> = new Set([
  mediaTypes.ociManifest,
  mediaTypes.ociIndex,
  mediaTypes.dockerManifest,
  mediaTypes.dockerList,
  mediaTypes.ociArtifact,
]);

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
  const chosen = new Set(distinct.filter(({ platform }) => isOf(platform, platforms)).map(({ digest }) => digest));
  return distinct.filter((child) => {
    const attested = child.annotations?.[attestedBy];
    return attested === undefined ? chosen.has(child.digest) || hasNone(child.platform) : [...chosen].some((digest) => digest === attested);
  });
}

/** Whether an index has images for platforms, but none for these. */
export function lacks(manifest: Manifest, platforms: readonly string[] | undefined): boolean {
  return platforms !== undefined && manifest.children.length > 0 && childrenFor(manifest, platforms).length === 0;
}

/** BuildKit: what a child of the platform `unknown/unknown` attests. */
const attestedBy = "vnd.docker.reference.digest";

function hasNone(platform: Platform | undefined): boolean {
  return !platform?.os || platform.os === "unknown";
}

function isOf(platform: Platform | undefined, wanted: readonly string[]): boolean {
  if (!platform || hasNone(platform)) return false;
  const { os, architecture, variant } = platform;
  return wanted.includes(`${os}/${architecture}`) || (variant !== undefined && wanted.includes(`${os}/${architecture}/${variant}`));
}
