import type { Descriptor, Platform } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import type { ContentFilter } from "../core/filter.js";
import type { Manifest } from "../core/manifest.js";
import { toBytes } from "../core/units.js";
import { compileGlob, type Glob } from "./glob.js";

/** Why something is hidden; `undefined`: it is not. */
export type Reason = string | undefined;

/** What a filter says of content, whatever it is called. */
export interface ContentRules {
  /** Of a manifest that an index names, as far as the index tells. */
  child(descriptor: Descriptor): Reason;
  /** Of a manifest, but for its platform, which only its config tells. */
  manifest(manifest: Manifest, size: number): Reason;
  platform(platform: Platform): Reason;
  readonly asksPlatform: boolean;
}

/** The rules about manifests, `undefined` when there are none. @throws RegistryError NAME_INVALID for a malformed pattern. */
export function compileContentRules(filter: ContentFilter): ContentRules | undefined {
  const { platforms, mediaTypes, artifactTypes, maxManifestBytes, maxBlobBytes } = filter;
  if (!platforms && !mediaTypes && !artifactTypes && !maxManifestBytes && !maxBlobBytes) return undefined;
  const permitted = platforms?.map(compilePlatform);
  const types = mediaTypes?.map(compileMediaType);
  const artifacts = artifactTypes?.map(compileMediaType);
  const largestManifest = maxManifestBytes === undefined ? Number.POSITIVE_INFINITY : toBytes(maxManifestBytes);
  const largestBlob = maxBlobBytes === undefined ? Number.POSITIVE_INFINITY : toBytes(maxBlobBytes);

  const common = (mediaType: string, size: number, artifactType: string | undefined): Reason => {
    if (size > largestManifest) return `manifests of more than ${maxManifestBytes} are not shown here`;
    if (types && !types.some((matches) => matches(mediaType))) return `manifests of type ${mediaType} are not shown here`;
    if (artifacts && artifactType !== undefined && !artifacts.some((matches) => matches(artifactType)))
      return `content of type ${artifactType} is not shown here`;
    return undefined;
  };
  const platform = (of: Platform): Reason => {
    if (!permitted || !isKnown(of) || permitted.some((matches) => matches(of))) return undefined;
    return `the platform ${of.os}/${of.architecture} is not shown here`;
  };
  return {
    asksPlatform: permitted !== undefined,
    platform,
    child: ({ mediaType, size, artifactType, platform: of }) => (of && platform(of)) ?? common(mediaType, size, artifactType),
    manifest({ mediaType, artifactType, config, layers }, size) {
      const large = [...(config ? [config] : []), ...layers].find((blob) => blob.size > largestBlob);
      if (large) return `${large.digest}, which it needs, has more than ${maxBlobBytes}`;
      return common(mediaType, size, artifactType);
    },
  };
}

/** BuildKit lists its attestations under "unknown/unknown". */
function isKnown({ os, architecture }: Platform): boolean {
  return os !== "" && architecture !== "" && os !== "unknown" && architecture !== "unknown";
}

/** What an absent variant means, as container runtimes take it. */
const usualVariants: ReadonlyMap<string, string> = new Map([
  ["arm", "v7"],
  ["arm64", "v8"],
]);

function compilePlatform(text: string): (platform: Platform) => boolean {
  const parts = /^([a-z0-9._*-]+)\/([a-z0-9._*-]+)(?:\/([a-z0-9._*-]+))?$/.exec(text);
  if (!parts)
    throw new RegistryError("NAME_INVALID", `${JSON.stringify(text)} is no platform: write "linux/amd64", "linux/arm64/v8" or "linux/*"`);
  const [os, architecture, variant] = parts.slice(1, 4).map((part = "*") => compileGlob(part));
  return (platform) =>
    os !== undefined &&
    architecture !== undefined &&
    variant !== undefined &&
    os(platform.os.toLowerCase()) &&
    architecture(platform.architecture.toLowerCase()) &&
    variant(platform.variant?.toLowerCase() ?? usualVariants.get(platform.architecture) ?? "");
}

function compileMediaType(text: string): Glob {
  if (!/^[a-zA-Z0-9!#$&^_.+*-]+\/[a-zA-Z0-9!#$&^_.+*-]+$/.test(text))
    throw new RegistryError(
      "NAME_INVALID",
      `${JSON.stringify(text)} is no media type: write "application/vnd.oci.image.manifest.v1+json", with * for the rest`,
    );
  const matches = compileGlob(text.toLowerCase());
  // Sigstore's types have parameters; rules speak of the type.
  return (mediaType) => matches((mediaType.split(";", 1)[0] ?? "").trim().toLowerCase());
}
