import pLimit from "p-limit";
import { contentChunks, wholeBody } from "../core/content.js";
import type { Descriptor, Platform } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { type Lookup, orThrow } from "../core/lookup.js";
import { followManifest, type Manifest } from "../core/manifest.js";
import type { Page, PageRequest } from "../core/page.js";
import { platformName } from "../core/platform.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { chargeTurn, unitsOfBytes } from "../core/turn-budget.js";
import { checkConcurrency } from "./in-parallel.js";

export interface BrowseOptions extends CallOptions {
  /** How many tags are looked at at a time. Default: 4. */
  readonly concurrency?: number;
}

/** A tag and what can be told of its image. What is not known is left out. */
export interface BrowsedTag {
  readonly tag: string;
  readonly digest?: Digest;
  readonly mediaType?: string;
  /** `os/architecture` or `os/architecture/variant`. */
  readonly platforms: readonly string[];
  /** Bytes of distinct configs and layers, of all platforms. */
  readonly size?: number;
  /** The publisher's word, not checked by anyone. */
  readonly created?: string;
  /** When the tag was last put here, in milliseconds since the epoch. */
  readonly storedAt?: number;
  /** Who gave it, outermost first. */
  readonly member?: readonly string[];
  /** Where the registry is a cache: how much of it is there. */
  readonly completeness?: { readonly complete: boolean; readonly missing: number };
  /** Why something is left out. */
  readonly problem?: string;
}

/** More children than any real index has; each costs a request. */
const childLimit = 100;
const configLimit = 4 * 1024 * 1024;

/**
 * One page of a repository's tags, with what a person wants to see of each. Manifests and configs are read; where that goes through a cache, it is a pull of
 * the tag to it, and brings along what its policy says.
 *
 * @returns as `listTags`. What could not be read of one tag is told with that tag.
 * @throws RegistryError UNKNOWN for a `concurrency` that is no whole number from 1; the signal's reason.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { browse } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const registry = localRegistry({ storage: memoryStorage(), name: "release" });
 * const page = await browse(registry, "team/app", { limit: 20 });
 * if (page.kind === "found") for (const { tag, platforms, size } of page.value.items) console.log(tag, platforms, size);
 * ```
 */
export async function browse(
  registry: Registry,
  repository: string,
  page: PageRequest,
  { concurrency = 4, ...o }: BrowseOptions = {},
): Promise<Lookup<Page<BrowsedTag>>> {
  checkConcurrency(concurrency);
  const call: CallOptions = { priority: "background", ...o };
  const listed = await registry.listTags(repository, page, call);
  if (listed.kind !== "found") return listed;
  const limited = pLimit(concurrency);
  const items = await Promise.all(listed.value.items.map((tag) => limited(() => lookAt(registry, repository, tag, call))));
  return { ...listed, value: { ...listed.value, items } };
}

async function lookAt(registry: Registry, repository: string, tag: string, call: CallOptions): Promise<BrowsedTag> {
  call.signal?.throwIfAborted();
  let told: BrowsedTag = { tag, platforms: [] };
  try {
    const lookup = await registry.getManifest(repository, tag, call);
    const { bytes, descriptor } = orThrow(lookup);
    const manifest = followManifest(bytes, descriptor.mediaType);
    told = { ...told, digest: descriptor.digest, mediaType: descriptor.mediaType };
    if (lookup.kind === "found") told = { ...told, member: lookup.served.member };
    const [storedAt, completeness] = await Promise.all([storedTime(registry, repository, tag), completenessOf(registry, repository, tag)]);
    told = { ...told, ...(storedAt !== undefined && { storedAt }), ...(completeness && { completeness }) };
    return { ...told, ...(await contents(registry, repository, manifest, call)) };
  } catch (error) {
    call.signal?.throwIfAborted();
    if (!isRegistryError(error)) throw error;
    return { ...told, problem: error.message };
  }
}

async function contents(
  registry: Registry,
  repository: string,
  manifest: Manifest,
  call: CallOptions,
): Promise<Pick<BrowsedTag, "platforms" | "size" | "created" | "problem">> {
  const blobs = new Map<Digest, Descriptor>();
  const platforms = new Set<string>();
  let config: Descriptor | undefined;
  let problem: string | undefined;
  const add = (image: Manifest) => {
    for (const blob of [...(image.config ? [image.config] : []), ...image.layers]) blobs.set(blob.digest, blob);
    config ??= image.config;
  };
  add(manifest);
  if (manifest.children.length > childLimit) problem = `only ${childLimit} of its ${manifest.children.length} manifests were looked at`;
  for (const child of manifest.children.slice(0, childLimit)) {
    call.signal?.throwIfAborted();
    const name = platformName(child.platform);
    if (name !== undefined) platforms.add(name);
    const lookup = await registry.getManifest(repository, child.digest, call);
    if (lookup.kind === "found") add(followManifest(lookup.value.bytes, lookup.value.descriptor.mediaType));
    else problem = `not all of its manifests could be read: ${child.digest}`;
  }
  const said = config ? await readConfig(registry, repository, config, call) : {};
  const own = manifest.kind === "image" ? platformName(said.platform) : undefined;
  if (own !== undefined) platforms.add(own);
  const size = [...blobs.values()].reduce((sum, blob) => sum + blob.size, 0);
  return { platforms: [...platforms], size, ...(said.created !== undefined && { created: said.created }), ...(problem && { problem }) };
}

/** What an image's config says of it; nothing where it is no image's config. */
async function readConfig(
  registry: Registry,
  repository: string,
  { digest, size, mediaType }: Descriptor,
  call: CallOptions,
): Promise<{ readonly created?: string; readonly platform?: Platform }> {
  if (size > configLimit || !/^application\/vnd\.(?:oci|docker)\.(?:image\.config|container\.image)\.v1\+json$/.test(mediaType)) return {};
  const { content } = orThrow(await registry.getBlob(repository, digest, { ...call, size }), "BLOB_UNKNOWN");
  const tooLarge = () => new RegistryError("SIZE_INVALID", `the config ${digest} is larger than the manifest says`);
  const bytes = await wholeBody(contentChunks(content), size, tooLarge);
  chargeTurn(unitsOfBytes(size));
  const said = parsed(bytes);
  const text = (key: string) => {
    const value = said[key];
    return typeof value === "string" ? value : undefined;
  };
  const [created, os, architecture, variant] = [text("created"), text("os"), text("architecture"), text("variant")];
  const platform = os && architecture ? { os, architecture, ...(variant && { variant }) } : undefined;
  return { ...(created && { created }), ...(platform && { platform }) };
}

function parsed(bytes: Uint8Array): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return typeof value === "object" && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
}

interface Storing {
  storedAt(repository: string, reference: string): Promise<number | undefined>;
}

async function storedTime(registry: Registry, repository: string, tag: string): Promise<number | undefined> {
  const storing = "local" in registry ? registry.local : registry;
  return isStoring(storing) ? storing.storedAt(repository, tag) : undefined;
}

function isStoring(value: unknown): value is Storing {
  return typeof value === "object" && value !== null && "storedAt" in value && typeof value.storedAt === "function";
}

interface Caching {
  completeness(repository: string, reference: string): Promise<{ readonly complete: boolean; readonly missing: readonly Descriptor[] }>;
}

async function completenessOf(registry: Registry, repository: string, tag: string): Promise<BrowsedTag["completeness"]> {
  if (!isCaching(registry)) return undefined;
  try {
    const { complete, missing } = await registry.completeness(repository, tag);
    return { complete, missing: missing.length };
  } catch (error) {
    if (isRegistryError(error) && error.code === "MANIFEST_UNKNOWN") return undefined;
    throw error;
  }
}

function isCaching(registry: Registry): registry is Registry & Caching {
  return "completeness" in registry && typeof registry.completeness === "function";
}
