import type { Descriptor } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import type { Surroundings } from "../core/events.js";
import { found, type Lookup, mapFound } from "../core/lookup.js";
import { type Manifest, parseManifest } from "../core/manifest.js";
import type { Storage } from "../core/metadata-store.js";
import { once, release, retain } from "../core/ownership.js";
import type { Page } from "../core/page.js";
import { requiredReferences } from "../core/references.js";
import type { Registry } from "../core/registry.js";
import { type Duration, toMilliseconds } from "../core/units.js";
import { localStore } from "../local/local-registry.js";
import { intercept } from "../views/intercept.js";
import { mergePages } from "../views/merge-pages.js";
import { Fills } from "./fills.js";
import { ManifestCache } from "./manifest-cache.js";

export interface CachedOptions extends Surroundings {
  /** Where bytes and records are kept; may be shared with other registries. */
  readonly storage: Storage;
  /** Permanent: what this cache stores is recorded under it. */
  readonly name: string;
  /** How long a tag is served without asking the source. Default: "5m", which a deployment notices less than a pull limit. */
  readonly tagTtl?: Duration;
  /** How many layers are brought in the background at a time. Default: 3, as docker does; what clients wait for is not limited. */
  readonly concurrency?: number;
}

/** What of an image is stored here. */
export interface Completeness {
  readonly complete: boolean;
  readonly missing: readonly Descriptor[];
}

export interface CachedRegistry extends Registry {
  /** Whether an image's manifest, config and layers are all stored here; for an index, those of all its platforms. The source is not asked. */
  completeness(repository: string, reference: string): Promise<Completeness>;
}

/**
 * A registry that keeps what another one gives. A pulled manifest brings its config and all its layers; a blob is transferred once however many ask,
 * verified before its last chunk goes out, and served from here when the source is gone. It takes no pushes.
 *
 * @example
 * ```ts
 * import { cached, dockerHub } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const hub = cached(dockerHub(), { storage: memoryStorage(), name: "hub", tagTtl: "10m" });
 * await hub.ready(); // whether Docker Hub is up or not
 * await hub.close();
 * ```
 */
export function cached(source: Registry, options: CachedOptions): CachedRegistry {
  const { name, storage, tagTtl = "5m", concurrency = 3 } = options;
  const { registry: store, blobs, partition } = localStore({ ...options, name, storage });
  const fills = new Fills({ source, store, blobs, partition, concurrency });
  const arrived = (repository: string, manifest: Manifest) => {
    for (const blob of requiredReferences(manifest).blobs) {
      // A failure is told by the fill's event, and the next client that asks for the blob starts a new one.
      fills.bringLater(repository, blob.digest).catch(() => {});
    }
  };
  const manifests = new ManifestCache({ source, store, partition, tagTtl: toMilliseconds(tagTtl), arrived });
  const parts = [source, store];
  retain(parts);
  const hit = { ...partition.served, cache: "hit" as const };
  const refuse = async (): Promise<never> => {
    throw new RegistryError("UNSUPPORTED", `${name} is a cache of another registry and takes no changes: push to a local registry`);
  };
  /** The source's listing; what is here while the source cannot answer. */
  const listed = async <T>(ask: (registry: Registry) => Promise<Lookup<Page<T>>>): Promise<Lookup<Page<T>>> => {
    const theirs = await ask(source);
    if (theirs.kind !== "unavailable" && theirs.kind !== "denied") return theirs;
    const ours = await ask(store);
    if (ours.kind !== "found" || ours.value.items.length === 0) return theirs;
    const warnings = [`the source could not be asked, so this lists only what is stored here: ${theirs.error.message}`];
    return { ...ours, value: { ...ours.value, warnings }, served: { ...hit, cache: "stale" } };
  };

  const cache: CachedRegistry = {
    identity: `cache ${name}`,
    resolveManifest: (repository, reference, o) => manifests.resolve(repository, reference, o),
    getManifest: (repository, reference, o) => manifests.get(repository, reference, o),
    async resolveBlob(repository, digest, o) {
      const here = await store.resolveBlob(repository, digest);
      if (here.kind === "found") return { ...here, served: hit };
      if (here.kind === "linked") return found(here.descriptor, partition.served);
      return source.resolveBlob(repository, digest, o);
    },
    async getBlob(repository, digest, o) {
      const here = await store.getBlob(repository, digest, o);
      if (here.kind === "found") return { ...here, served: hit };
      const lookup = await fills.get(repository, digest, o);
      return lookup.kind === "found" ? { ...lookup, served: { ...lookup.served, member: partition.served.member, cache: "miss" } } : lookup;
    },
    listTags: (repository, page, o) => listed((registry) => registry.listTags(repository, page, o)),
    listReferrers: (repository, subject, page, o) => listed((registry) => registry.listReferrers(repository, subject, page, o)),
    // Joined with what is stored: some sources, Docker Hub among them, have no catalog.
    async listRepositories(page, o) {
      const [theirs, ours] = await Promise.all([source.listRepositories(page, o), store.listRepositories(page, o)]);
      const parts = [
        { member: "the source", lookup: theirs },
        { member: name, lookup: ours },
      ];
      return mergePages(parts, page.limit, (repository) => repository, partition.served);
    },
    putManifest: refuse,
    putBlob: refuse,
    mountBlob: refuse,
    startUpload: refuse,
    resumeUpload: refuse,
    deleteManifest: refuse,
    deleteBlob: refuse,
    completeness: (repository, reference) => completeness(store, repository, reference),
    forNamespace: () => undefined,
    async ready() {
      await Promise.all([source.ready(), store.ready()]);
    },
    close: once(async (o = {}) => {
      await fills.close(toMilliseconds(o.deadline ?? "10s"));
      await release(parts, o);
    }),
  };
  if (!source.canonicalName) return cache;
  // Kept under one name, whichever the client uses: two would be fetched twice.
  const canonical = source.canonicalName.bind(source);
  return Object.assign(
    intercept(cache, ({ repository }) => canonical(repository)),
    {
      canonicalName: canonical,
      completeness: (repository: string, reference: string) => cache.completeness(canonical(repository), reference),
    },
  );
}

async function completeness(store: Registry, repository: string, reference: string): Promise<Completeness> {
  const lookup = await store.getManifest(repository, reference);
  if (lookup.kind !== "found") throw new RegistryError("MANIFEST_UNKNOWN", `${repository} has no ${reference} stored here`);
  const missing: Descriptor[] = [];
  const walk = async ({ bytes, mediaType }: { bytes: Uint8Array; mediaType: string }): Promise<void> => {
    const { blobs, children } = requiredReferences(parseManifest(bytes, mediaType));
    for (const blob of blobs) if ((await store.resolveBlob(repository, blob.digest)).kind !== "found") missing.push(blob);
    for (const child of children) {
      const below = mapFound(await store.getManifest(repository, child.digest), (content) => ({
        bytes: content.bytes,
        mediaType: child.mediaType,
      }));
      if (below.kind === "found") await walk(below.value);
      else missing.push(child);
    }
  };
  await walk({ bytes: lookup.value.bytes, mediaType: lookup.value.descriptor.mediaType });
  return { complete: missing.length === 0, missing };
}
