import type { Descriptor } from "../core/descriptor.js";
import { parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { type Lookup, mapFound } from "../core/lookup.js";
import { once } from "../core/ownership.js";
import type { Page, PageRequest } from "../core/page.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { offerRoom } from "../core/room.js";
import { type Duration, toBytes, toMilliseconds } from "../core/units.js";
import { localStore } from "../local/local-registry.js";
import { mergePages } from "../views/merge-pages.js";
import { asking, look, type Passed } from "./asking.js";
import type { CachedOptions } from "./cached.js";
import { type Completeness, completeness } from "./completeness.js";
import { Fills } from "./fills.js";
import { Freshness } from "./freshness.js";
import { Images, type WarmOptions } from "./images.js";
import { ListingCache } from "./listing-cache.js";
import { ManifestCache } from "./manifest-cache.js";
import { ManifestIntake } from "./manifest-intake.js";
import type { CacheMemory } from "./memory.js";
import { Negatives } from "./negatives.js";
import { CacheSpace } from "./space.js";

/** What one cache, or one caller's part of it, keeps: a registry and what can be asked about it. */
export interface CachePartition {
  readonly registry: Registry;
  completeness(repository: string, reference: string, platforms?: readonly string[], signal?: AbortSignal): Promise<Completeness>;
  warm(repository: string, reference: string, o?: WarmOptions & Passed): Promise<Completeness>;
  refresh(repository: string, tag: string, o?: CallOptions): Promise<Lookup<Descriptor>>;
  bytes(): Promise<number>;
  readonly load: Fills["load"];
  /** Milliseconds. */
  close(deadline: number): Promise<void>;
}

/**
 * @param name the partition of the records.
 * @param call what the source is told with every question: the caller, where the partition is one's own. Read at each question.
 */
export function cachePartition(
  source: Registry,
  options: CachedOptions,
  memory: CacheMemory,
  name: string,
  call: CallOptions,
): CachePartition {
  const time = (duration: Duration | undefined, otherwise: Duration) => toMilliseconds(duration ?? otherwise);
  const local = localStore({ ...options, name });
  const { registry: store } = local;
  // Whoever is told who answered knows the cache, not its parts.
  const partition = { ...local.partition, served: { member: [options.name] } };
  const maxBytes = options.maxBytes === undefined ? Number.POSITIVE_INFINITY : toBytes(options.maxBytes);
  const maxBlobBytes = options.maxBlobBytes === undefined ? maxBytes : Math.min(maxBytes, toBytes(options.maxBlobBytes));
  const space = new CacheSpace({ partition, maxBytes, keepFree: options.keepFree ?? 0.1 });
  const { concurrency = 3, unverifiedRanges = false, onAbandoned = "finish" } = options;
  const fills = new Fills({
    source,
    store,
    intake: local.intake,
    partition,
    concurrency,
    space,
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
  const negatives = new Negatives(partition, memory.negatives, time(options.negativeTtl, "5s"));
  const intake = new ManifestIntake({ source, store, partition, freshness, arrived: (...manifest) => images.arrived(...manifest) });
  const hitImage = (repository: string, content: ManifestContent, o: Passed | undefined) => images.hit(repository, content, o);
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
  const withdraw = offerRoom(partition.blobs, (bytes) => space.makeRoom(bytes));
  const hit = { ...partition.served, cache: "hit" as const };
  const refuse = async (): Promise<never> => {
    throw new RegistryError("UNSUPPORTED", `${name} is a cache of another registry and takes no changes: push to a local registry`);
  };
  // The source is told who asks only where the answer stays theirs.
  const passed = (o: CallOptions | undefined): CallOptions => ({ ...o, caller: undefined, ...call });
  const fault = (error: unknown) =>
    partition.events.emit("fault", {
      time: partition.clock.now(),
      registry: name,
      message: `a use could not be recorded: ${String(error)}`,
    });

  /** Tags that are kept here can be pulled, so they are listed. */
  const tagsOf = async (repository: string, page: PageRequest, o: Passed | undefined): Promise<Lookup<Page<string>>> => {
    const theirs = await source.listTags(repository, page, asking(call, o));
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
      const here = await store.resolveBlob(repository, digest, look);
      if (here.kind === "found") {
        space.used(here.value.digest).catch(fault);
        return { ...here, served: hit };
      }
      // Also where a manifest names it: anybody can write a digest into one, and whoever hears "found" may take the bytes from a store that both share.
      const there = await source.resolveBlob(repository, digest, passed(o));
      return there.kind === "found" ? { ...there, served: { ...there.served, ...partition.served, cache: "miss" } } : there;
    },
    async getBlob(repository, digest, o) {
      const here = await store.getBlob(repository, digest, o);
      if (here.kind === "found") {
        space.used(parseDigest(digest)).catch(fault);
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
        () => source.listReferrers(repository, subject, page, asking(call, o)),
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
      await space.ready(o?.signal);
    },
    close: once(async (o = {}) => {
      withdraw();
      await space.close();
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
    bytes: () => space.bytes(),
    get load() {
      return fills.load;
    },
    close: (deadline) => registry.close({ deadline: `${deadline}ms` }),
  };
}
