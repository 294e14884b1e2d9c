import { createHash } from "node:crypto";
import { LRUCache } from "lru-cache";
import type { Descriptor } from "../core/descriptor.js";
import type { Surroundings } from "../core/events.js";
import type { Lookup } from "../core/lookup.js";
import type { Storage } from "../core/metadata-store.js";
import { assertPermanentName } from "../core/name.js";
import { once, release, retain } from "../core/ownership.js";
import type { Caller, CallOptions, Registry } from "../core/registry.js";
import { type Duration, type Size, toMilliseconds } from "../core/units.js";
import { intercept } from "../views/intercept.js";
import { type CachePartition, cachePartition } from "./cache-partition.js";
import type { ChildrenPolicy, Completeness, WarmOptions } from "./images.js";
import { keepWarm, type WarmPlan } from "./keep-warm.js";

export interface CachedOptions extends Surroundings {
  /** Where bytes and records are kept; may be shared with other registries. */
  readonly storage: Storage;
  /** Permanent: what this cache stores is recorded under it. */
  readonly name: string;
  /** How long a tag, a list of tags or of referrers is served without asking the source. Default: "5m", which a deployment notices less than a pull limit. */
  readonly tagTtl?: Duration;
  /** So long after that a tag is served at once, and confirmed in the background. Default: "0s", whoever asks first waits for one HEAD. */
  readonly staleWhileRevalidate?: Duration;
  /** So long after its last confirmation a tag is served when the source cannot be asked. Default: "30d". */
  readonly staleIfError?: Duration;
  /** How long "there is none" and "refused" are remembered. Default: "5s". */
  readonly negativeTtl?: Duration;
  /** What becomes of a tag that the source has no more. Default: "forget"; its manifest stays, by digest. */
  readonly deletedTags?: "forget" | "keep";
  /** Which images of an index come with it. Default: "on demand", those that are pulled. */
  readonly children?: ChildrenPolicy;
  /** Whether signatures and the like come with an image. Default: "on demand". */
  readonly referrers?: "all" | "on demand";
  /** How many layers are brought in the background at a time. Default: 3, as docker does; what clients wait for is not limited. */
  readonly concurrency?: number;
  /** What becomes of a transfer when its last client leaves. Default: "finish". */
  readonly onAbandoned?: "finish" | "stop";
  /** Sends parts of a blob before the whole is verified, for clients that pull lazily and verify themselves. Default: false. */
  readonly unverifiedRanges?: boolean;
  /** What the blobs of this cache may take up; the least recently used go first. Default: no limit but `keepFree`. */
  readonly maxBytes?: Size;
  /** The part of the volume that stays free, from 0 to 1, where the store knows its volume. Default: 0.1. */
  readonly keepFree?: number;
  /** Larger blobs are passed through, verified and not kept. Default: `maxBytes`. */
  readonly maxBlobBytes?: Size;
  /**
   * Keeps what is fetched for one caller from others: what it answers names the part of the cache that a caller sees. The source is told the caller. Default:
   * all callers share one.
   */
  readonly partition?: (caller: Caller | undefined) => string;
}

/** How a cache does. */
export interface CacheStatus<S = unknown> {
  readonly name: string;
  /** Bytes of the blobs that are stored. */
  readonly bytes: number;
  readonly fills: { readonly running: number; readonly queued: number };
  /** What the source says of itself, where it has a `status()`. */
  readonly source: S;
}

type StatusOf<R> = R extends { status(): infer S } ? S : undefined;

export interface CachedRegistry<S = unknown> extends Registry {
  /**
   * Whether an image's manifest, config and layers are all stored here; for an index, those of all its platforms or of those that are named. The source is
   * not asked. @throws RegistryError MANIFEST_UNKNOWN when not even the manifest is here.
   */
  completeness(repository: string, reference: string, platforms?: readonly string[], o?: CallOptions): Promise<Completeness>;
  /** Brings a whole image and waits for it. @throws RegistryError why something could not be brought; what came stays, and another call goes on from there. */
  warm(repository: string, reference: string, o?: WarmOptions & CallOptions): Promise<Completeness>;
  /** Brings images again and again, until the signal ends it. */
  keepWarm(plan: WarmPlan): Promise<void>;
  /** Asks the source about a tag now, however fresh it is. */
  refresh(repository: string, tag: string, o?: CallOptions): Promise<Lookup<Descriptor>>;
  status(): Promise<CacheStatus<S>>;
}

/** Callers' parts of a cache that are open at a time; others open again when they are needed. */
const openPartitions = 1000;

/**
 * A registry that keeps what another one gives. A pulled manifest brings its config and all its layers; a blob is transferred once however many ask,
 * verified before its last chunk goes out, and served from here when the source is gone. It takes no pushes.
 *
 * @throws RegistryError NAME_INVALID for a malformed name.
 *
 * @example
 * ```ts
 * import { cached, dockerHub } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const hub = cached(dockerHub(), { storage: memoryStorage(), name: "hub", tagTtl: "10m", maxBytes: "200GiB" });
 * await hub.ready(); // whether Docker Hub is up or not
 * await hub.close();
 * ```
 */
export function cached<R extends Registry>(source: R, options: CachedOptions): CachedRegistry<StatusOf<R>> {
  const { name, storage } = options;
  assertPermanentName(name, "cache");
  const common = cachePartition(source, options, name, {});
  // Closed when it is pushed out: its records stay, and what runs for it ends first.
  const own = new LRUCache<string, CachePartition>({
    max: openPartitions,
    dispose: (partition) => void partition.close(0).catch(() => {}),
  });
  const partitionOf = (o: CallOptions | undefined): CachePartition => {
    if (!options.partition) return common;
    const hash = createHash("sha256").update(options.partition(o?.caller)).digest("hex").slice(0, 32);
    const open = own.get(hash) ?? cachePartition(source, options, `${name}.${hash}`, o?.caller ? { caller: o.caller } : {});
    own.set(hash, open);
    return open;
  };
  const of = (o: CallOptions | undefined): Registry => partitionOf(o).registry;
  const canonical = source.canonicalName?.bind(source);
  const parts = [source, storage.blobs, storage.metadata];
  retain(parts);

  const registry: Registry = {
    ...common.registry,
    resolveManifest: (repository, reference, o) => of(o).resolveManifest(repository, reference, o),
    getManifest: (repository, reference, o) => of(o).getManifest(repository, reference, o),
    resolveBlob: (repository, digest, o) => of(o).resolveBlob(repository, digest, o),
    getBlob: (repository, digest, o) => of(o).getBlob(repository, digest, o),
    listTags: (repository, page, o) => of(o).listTags(repository, page, o),
    listReferrers: (repository, subject, page, o) => of(o).listReferrers(repository, subject, page, o),
    listRepositories: (page, o) => of(o).listRepositories(page, o),
    async ready() {
      await Promise.all([source.ready(), common.registry.ready()]);
    },
    close: once(async (o = {}) => {
      const deadline = toMilliseconds(o.deadline ?? "10s");
      await Promise.all([common, ...own.values()].map((partition) => partition.close(deadline)));
      await release(parts, o);
    }),
  };
  // Kept under one name, whichever the client uses: two would be fetched twice.
  const outer = canonical
    ? Object.assign(
        intercept(registry, ({ repository }) => canonical(repository)),
        { canonicalName: canonical },
      )
    : registry;
  const named = canonical ?? ((repository: string) => repository);
  const cache: CachedRegistry<StatusOf<R>> = Object.assign(outer, {
    completeness: (repository: string, reference: string, platforms?: readonly string[], o?: CallOptions) =>
      partitionOf(o).completeness(named(repository), reference, platforms),
    warm: (repository: string, reference: string, o?: WarmOptions & CallOptions) => partitionOf(o).warm(named(repository), reference, o),
    keepWarm: (plan: WarmPlan) => keepWarm(cache, plan, options),
    refresh: (repository: string, tag: string, o?: CallOptions) => partitionOf(o).refresh(named(repository), tag, o),
    async status() {
      const status = "status" in source && typeof source.status === "function" ? source.status() : undefined;
      return { name, bytes: await common.bytes(), fills: common.load, source: status as StatusOf<R> };
    },
  });
  return cache;
}
