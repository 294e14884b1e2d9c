import { LRUCache } from "lru-cache";
import { contentChunks, wholeBody } from "../core/content.js";
import type { Descriptor, Platform } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import type { ContentFilter } from "../core/filter.js";
import { permanentlyDenied } from "../core/lookup.js";
import { type Manifest, manifestSizeLimit } from "../core/manifest.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { toBytes } from "../core/units.js";
import { compileGlob, type Glob } from "./patterns.js";

/** Bytes under a digest never change, so a verdict holds for good. Some hundred bytes each. */
const keptVerdicts = 10_000;
/** Types of the configs of images; those of other artifacts tell no platform. */
const imageConfigs: ReadonlySet<string> = new Set([
  "application/vnd.oci.image.config.v1+json",
  "application/vnd.docker.container.image.v1+json",
]);

/** Whether manifests may be shown, by their bytes and their configs. {@link compileContentRules} makes the rules of a filter. */
export class ContentVerdicts {
  readonly #registry: Registry;
  readonly #rules: ContentRules;
  readonly #read: (descriptor: Descriptor, bytes: Uint8Array) => Manifest;
  readonly #verdicts = new LRUCache<string, { readonly reason: Reason }>({ max: keptVerdicts });

  /** @param read what a manifest refers to. */
  constructor(registry: Registry, rules: ContentRules, read: (descriptor: Descriptor, bytes: Uint8Array) => Manifest) {
    this.#registry = registry;
    this.#rules = rules;
    this.#read = read;
  }

  /** The verdict, where there is one already. The same bytes may be pushed as another type, of which the rules say something else. */
  known({ digest, mediaType }: Descriptor): { readonly reason: Reason } | undefined {
    return this.#verdicts.get(`${digest} ${mediaType}`);
  }

  async verdict(repository: string, { descriptor, bytes }: ManifestContent, o?: CallOptions): Promise<Reason> {
    const known = this.known(descriptor);
    if (known) return known.reason;
    const manifest = this.#read(descriptor, bytes);
    const reason = this.#rules.manifest(manifest, bytes.byteLength) ?? (await this.#ofPlatform(repository, manifest, o));
    this.#verdicts.set(`${descriptor.digest} ${descriptor.mediaType}`, { reason });
    return reason;
  }

  async #ofPlatform(repository: string, { config }: Manifest, o?: CallOptions): Promise<Reason> {
    if (!this.#rules.asksPlatform || !config || !imageConfigs.has(config.mediaType)) return undefined;
    const tooLarge = () =>
      permanentlyDenied(`the config ${config.digest}`, `it is larger than ${manifestSizeLimit} bytes, so that its platform cannot be found`)
        .error;
    const lookup = await this.#registry.getBlob(repository, config.digest, { ...o, size: config.size });
    if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookup.error;
    if (lookup.kind !== "found")
      throw new RegistryError("UNAVAILABLE", `the config ${config.digest}, which tells the platform, is not there`);
    const platform = platformIn(await wholeBody(contentChunks(lookup.value.content), manifestSizeLimit, tooLarge));
    return platform && this.#rules.platform(platform);
  }
}

function platformIn(config: Uint8Array): Platform | undefined {
  const body: unknown = JSON.parse(Buffer.from(config.buffer, config.byteOffset, config.byteLength).toString());
  if (typeof body !== "object" || body === null || !("os" in body) || !("architecture" in body)) return undefined;
  const { os, architecture } = body;
  if (typeof os !== "string" || typeof architecture !== "string") return undefined;
  const variant = "variant" in body && typeof body.variant === "string" && body.variant !== "" ? body.variant : undefined;
  return { os, architecture, ...(variant !== undefined && { variant }) };
}

/** Why something is hidden; `undefined`: it is not. */
export type Reason = string | undefined;

/** What a filter says of content, whatever its name. */
export interface ContentRules {
  /** Why a child of an index is hidden, as far as the index tells. */
  child(descriptor: Descriptor): Reason;
  /** Why a manifest is hidden, without its platform, which only its config tells. */
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
