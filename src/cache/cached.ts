import { systemClock } from "../core/clock.js";
import type { Descriptor } from "../core/descriptor.js";
import { parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { type RuntimeOptions, reportFault } from "../core/events.js";
import { offerEviction } from "../core/eviction.js";
import { type Lookup, mapFound } from "../core/lookup.js";
import type { Storage } from "../core/metadata-store.js";
import { madeOf } from "../core/mount-source.js";
import { assertPermanentName } from "../core/name.js";
import { once, release, retain } from "../core/ownership.js";
import type { Page, PageRequest } from "../core/page.js";
import type { Caller, CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { mapReads } from "../core/registry-calls.js";
import { type Duration, type Size, toBytes, toMilliseconds } from "../core/units.js";
import { localStore } from "../local/local-registry.js";
import { intercept } from "../views/intercept.js";
import { mergePages } from "../views/merge-pages.js";
import { type CachePartition, CallerPartitions } from "./caller-partitions.js";
import type { ChildrenPolicy } from "./children.js";
import { type Completeness, completeness } from "./completeness.js";
import { CacheEviction } from "./eviction.js";
import { Fills } from "./fill/fills.js";
import { Freshness } from "./freshness.js";
import { Images, type WarmOptions } from "./images.js";
import { keepWarm, type WarmPlan } from "./keep-warm.js";
import { ListingCache } from "./listing-cache.js";
import { ManifestCache, ManifestIntake } from "./manifest-cache.js";
import { type CacheMemory, cacheMemory } from "./memory.js";
import { NegativeCache } from "./negative-cache.js";
import { backgroundPriority, sourceCall, type ViaOptions } from "./source-call.js";

export interface CachedOptions extends RuntimeOptions {
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
   * Keeps what is fetched for one caller from others: what it answers names the part of the cache that a caller sees. The source is told the caller, of several
   * with one part the latest. What it throws, refuses the caller. Default: all callers share one, and the source is told none.
   */
  readonly partition?: (caller: Caller | undefined) => string;
}

/** How a cache does. */
export interface CacheStatus<S = unknown> {
  readonly name: string;
  /** Bytes of the blobs that are stored; of callers' parts, those in use since the start. */
  readonly bytes: number;
  readonly fills: { readonly running: number; readonly queued: number };
  /** What the source says of itself, where it has a `status()`. */
  readonly source: S;
}

type StatusOf<R> = R extends { status(): infer S } ? S : undefined;

export interface CachedRegistry<S = unknown> extends Registry {
  /**
   * Whether an image's manifest, config and layers are all stored here; for an index, those of all its platforms or of those that are named. The source is
   * not asked. @throws RegistryError MANIFEST_UNKNOWN when not even the manifest is here, or an index has no image for these platforms.
   */
  completeness(repository: string, reference: string, platforms?: readonly string[], o?: CallOptions): Promise<Completeness>;
  /**
   * Brings a whole image and waits for it, with its referrers where `referrers` is "all".
   * @throws RegistryError what could not be brought, and why; what came stays, and another call goes on from there. The signal's reason once it aborts.
   */
  warm(repository: string, reference: string, o?: WarmOptions & CallOptions): Promise<Completeness>;
  /** Brings images again and again, until the signal or `close` ends it. @throws RegistryError NAME_INVALID for a malformed name or pattern. */
  keepWarm(plan: WarmPlan): Promise<void>;
  /** Asks the source about a tag now, however fresh it is. Where the source cannot be asked, the answer is as for a pull: `served.cache` is "stale". */
  refresh(repository: string, tag: string, o?: CallOptions): Promise<Lookup<Descriptor>>;
  status(): Promise<CacheStatus<S>>;
}

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
  const memory = cacheMemory();
  const common = cachePartition(source, options, memory, name, {});
  const callers = new CallerPartitions(options.clock ?? systemClock, (hash, call) =>
    cachePartition(source, options, memory, `${name}.${hash}`, call),
  );
  const closing = new AbortController();
  const partitionOf = (o: CallOptions | undefined): CachePartition =>
    options.partition ? callers.of(options.partition(o?.caller), o?.caller) : common;
  const all = () => [common, ...callers.all];
  const untilClosed = (signal: AbortSignal | undefined) => (signal ? AbortSignal.any([signal, closing.signal]) : closing.signal);
  // In an aggregate another spelling may be another member's repository, so there each name is stored for itself.
  const canonical = "connectors" in source ? undefined : source.canonicalName?.bind(source);
  const parts = [source, storage.blobs, storage.metadata];
  retain(parts);

  const registry: Registry = {
    ...common.registry,
    // Async, since a host's function that throws refuses the caller.
    ...mapReads(async ({ repository, options: o }, send) => send(partitionOf(o).registry, repository)),
    async ready(o) {
      await Promise.all([source.ready(o), common.registry.ready(o)]);
    },
    close: once(async (o = {}) => {
      closing.abort(new RegistryError("UNAVAILABLE", `${name} is closing`, { retryAfter: 1 }));
      const deadline = toMilliseconds(o.deadline ?? "10s");
      await Promise.all([common.close(deadline), callers.close(deadline)]);
      await release(parts, o);
    }),
  };
  madeOf(registry, {
    parts: () => [source],
    behind: (repository) => ({ registry: source, repository }),
    namesOf: (_part, repository) => [repository],
  });
  // Stored under one name, whichever the client uses: content under two names would be fetched twice.
  const outer = canonical
    ? Object.assign(
        intercept(registry, ({ repository }) => canonical(repository)),
        { canonicalName: canonical },
      )
    : registry;
  const named = canonical ?? ((repository: string) => repository);
  const cache: CachedRegistry<StatusOf<R>> = Object.assign(outer, {
    completeness: async (repository: string, reference: string, platforms?: readonly string[], o?: CallOptions) =>
      partitionOf(o).completeness(named(repository), reference, platforms, o?.signal),
    warm: async (repository: string, reference: string, o?: WarmOptions & CallOptions) =>
      partitionOf(o).warm(named(repository), reference, { ...o, signal: untilClosed(o?.signal) }),
    keepWarm: (plan: WarmPlan) => keepWarm(cache, { ...plan, signal: untilClosed(plan.signal) }, options),
    refresh: async (repository: string, tag: string, o?: CallOptions) => partitionOf(o).refresh(named(repository), tag, o),
    async status() {
      const status = "status" in source && typeof source.status === "function" ? source.status() : undefined;
      const parts = all();
      const bytes = (await Promise.all(parts.map((part) => part.bytes()))).reduce((sum, some) => sum + some, 0);
      const sum = (of: "running" | "queued") => parts.reduce((total, { load }) => total + load[of], 0);
      return { name, bytes, fills: { running: sum("running"), queued: sum("queued") }, source: status as StatusOf<R> };
    },
  });
  return cache;
}

/**
 * One part of the cache: a local registry, and what brings content into it. Manifests go through {@link ManifestCache}, blobs through {@link Fills}, whole images through
 * {@link Images}, listings through {@link ListingCache}; {@link CacheEviction} removes blobs again.
 *
 * @param name the partition of the records.
 * @param call the options of every call of the source: the caller, where the part belongs to one. Read at each call.
 */
function cachePartition(source: Registry, options: CachedOptions, memory: CacheMemory, name: string, call: CallOptions): CachePartition {
  const time = (duration: Duration | undefined, otherwise: Duration) => toMilliseconds(duration ?? otherwise);
  const local = localStore({ ...options, name });
  const { registry: store } = local;
  // Outside of the cache only its own name is known, not those of its parts.
  const partition = { ...local.partition, served: { member: [options.name] } };
  const maxBytes = options.maxBytes === undefined ? Number.POSITIVE_INFINITY : toBytes(options.maxBytes);
  const maxBlobBytes = options.maxBlobBytes === undefined ? maxBytes : Math.min(maxBytes, toBytes(options.maxBlobBytes));
  const eviction = new CacheEviction({ partition, maxBytes, keepFree: options.keepFree ?? 0.1 });
  const { concurrency = 3, unverifiedRanges = false, onAbandoned = "finish" } = options;
  const fills = new Fills({
    source,
    store,
    intake: local.intake,
    partition,
    concurrency,
    eviction,
    maxBlobBytes,
    unverifiedRanges,
    onAbandoned,
    call,
  });
  const { children = "on demand", referrers = "on demand", deletedTags = "forget" } = options;
  const images = new Images({
    source,
    store,
    partition,
    fills,
    known: memory.images,
    manifests: () => manifests,
    children,
    referrers,
    call,
  });
  const policy = {
    tagTtl: time(options.tagTtl, "5m"),
    staleWhileRevalidate: time(options.staleWhileRevalidate, "0s"),
    staleIfError: time(options.staleIfError, "30d"),
    deletedTags,
  };
  const freshness = new Freshness(partition, memory.freshness);
  const negatives = new NegativeCache(partition, memory.negatives, time(options.negativeTtl, "5s"));
  const intake = new ManifestIntake({ source, store, partition, freshness, arrived: (...manifest) => images.arrived(...manifest) });
  const hitImage = (repository: string, content: ManifestContent, o: ViaOptions | undefined) => images.hit(repository, content, o);
  const manifests: ManifestCache = new ManifestCache({
    source,
    store,
    partition,
    freshness,
    negatives,
    intake,
    policy,
    call,
    hit: hitImage,
  });
  const listings = new ListingCache({ partition, pages: memory.pages, negatives, ttl: policy.tagTtl });
  const withdraw = offerEviction(partition.blobs, (bytes) => eviction.free(bytes));
  const hit = { ...partition.served, cache: "hit" as const };
  const refuse = async (): Promise<never> => {
    throw new RegistryError("UNSUPPORTED", `${name} is a cache of another registry and takes no changes: push to a local registry`);
  };
  // The source is told the caller only where the answer is for this caller alone.
  const passed = (o: CallOptions | undefined): CallOptions => ({ ...o, caller: undefined, ...call });
  const fault = (error: unknown) => reportFault(partition, "a use could not be recorded", error);

  /** Deleted tags that are kept here can be pulled, so they are listed. */
  const tagsOf = async (repository: string, page: PageRequest, o: ViaOptions | undefined): Promise<Lookup<Page<string>>> => {
    const theirs = await source.listTags(repository, page, sourceCall(call, o));
    if (deletedTags === "forget" || (theirs.kind !== "found" && theirs.kind !== "absent")) return theirs;
    const ours = await store.listTags(repository, page);
    const parts = [theirs, ours].map((lookup) => ({ member: options.name, lookup }));
    return mergePages(parts, page.limit, (tag) => tag, partition.served);
  };

  const registry: Registry = {
    identity: `cache ${options.name}`,
    resolveManifest: (repository, reference, o) => manifests.resolve(repository, reference, o),
    getManifest: (repository, reference, o) => manifests.get(repository, reference, o),
    async resolveBlob(repository, digest, o) {
      const here = await store.resolveBlob(repository, digest, backgroundPriority);
      if (here.kind === "found") {
        eviction.used(here.value.digest).catch(fault);
        return { ...here, served: hit };
      }
      // Also where a manifest names the blob: anybody can write a digest into one, and a caller who is answered "found" may take the bytes from a store that both share.
      const there = await source.resolveBlob(repository, digest, passed(o));
      return there.kind === "found" ? { ...there, served: { ...there.served, ...partition.served, cache: "miss" } } : there;
    },
    async getBlob(repository, digest, o) {
      const here = await store.getBlob(repository, digest, o);
      if (here.kind === "found") {
        eviction.used(parseDigest(digest)).catch(fault);
        return { ...here, served: hit };
      }
      const lookup = await fills.get(repository, digest, o);
      return lookup.kind === "found" ? { ...lookup, served: { ...lookup.served, member: partition.served.member, cache: "miss" } } : lookup;
    },
    listTags: (repository, page, o) =>
      listings.page(
        `tags ${repository}`,
        page,
        o,
        () => tagsOf(repository, page, o),
        () => store.listTags(repository, page),
      ),
    listReferrers: (repository, subject, page, o) =>
      listings.page(
        `referrers ${repository} ${subject} ${page.artifactType ?? ""}`,
        page,
        o,
        () => source.listReferrers(repository, subject, page, sourceCall(call, o)),
        () => store.listReferrers(repository, subject, page),
      ),
    // Joined with what is stored: some sources, Docker Hub among them, have no catalog.
    async listRepositories(page, o) {
      const [theirs, ours] = await Promise.all([source.listRepositories(page, passed(o)), store.listRepositories(page)]);
      const parts = [
        { member: "the source", lookup: theirs },
        { member: options.name, lookup: ours },
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
    forNamespace: () => undefined,
    ready: async (o) => {
      await store.ready(o);
      eviction.start();
    },
    close: once(async (o = {}) => {
      withdraw();
      await eviction.close();
      await fills.close(toMilliseconds(o.deadline ?? "10s"));
      await store.close(o);
    }),
  };
  return {
    registry,
    completeness: (repository, reference, platforms, signal) => completeness(store, repository, reference, platforms, signal),
    warm: (repository, reference, o) => images.warm(repository, reference, o),
    refresh: async (repository, tag, o) =>
      mapFound(await manifests.get(repository, tag, { ...o, refresh: true }), ({ descriptor }) => descriptor),
    bytes: () => eviction.bytes(),
    get load() {
      return fills.load;
    },
    close: (deadline) => registry.close({ deadline: `${deadline}ms` }),
  };
}
