import { LRUCache } from "lru-cache";
import { collect, contentChunks } from "../core/content.js";
import type { Descriptor, Platform } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import { type Manifest, manifestSizeLimit } from "../core/manifest.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import type { ContentRules, Reason } from "./content-rules.js";
import { followedManifest } from "./followed-manifests.js";

/** Bytes under a digest never change, so what was found once holds; some hundred bytes each. */
const keptVerdicts = 10_000;
/** Configs of images; those of other artifacts tell no platform. */
const imageConfigs: ReadonlySet<string> = new Set([
  "application/vnd.oci.image.config.v1+json",
  "application/vnd.docker.container.image.v1+json",
]);

/** Says of a manifest, by its bytes and its config, whether it may be shown. */
export class ContentJudge {
  readonly #registry: Registry;
  readonly #rules: ContentRules;
  readonly #verdicts = new LRUCache<string, { readonly reason: Reason }>({ max: keptVerdicts });

  constructor(registry: Registry, rules: ContentRules) {
    this.#registry = registry;
    this.#rules = rules;
  }

  /** What was found before; `undefined` when it was not asked yet. The same bytes may be pushed as another type, of which the rules say something else. */
  known({ digest, mediaType }: Descriptor): { readonly reason: Reason } | undefined {
    return this.#verdicts.get(`${digest} ${mediaType}`);
  }

  async verdict(repository: string, { descriptor, bytes }: ManifestContent, o?: CallOptions): Promise<Reason> {
    const known = this.known(descriptor);
    if (known) return known.reason;
    const manifest = followedManifest(descriptor, bytes);
    const reason = this.#rules.manifest(manifest, bytes.byteLength) ?? (await this.#ofPlatform(repository, manifest, o));
    this.#verdicts.set(`${descriptor.digest} ${descriptor.mediaType}`, { reason });
    return reason;
  }

  async #ofPlatform(repository: string, { config }: Manifest, o?: CallOptions): Promise<Reason> {
    if (!this.#rules.asksPlatform || !config || !imageConfigs.has(config.mediaType)) return undefined;
    const tooLarge = () => new RegistryError("UNAVAILABLE", `the config ${config.digest} is too large to find its platform`);
    const lookup = await this.#registry.getBlob(repository, config.digest, { ...o, size: config.size });
    if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookup.error;
    if (lookup.kind !== "found")
      throw new RegistryError("UNAVAILABLE", `the config ${config.digest}, which tells the platform, is not there`);
    const platform = platformIn(await collect(contentChunks(lookup.value.content), manifestSizeLimit, tooLarge));
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
