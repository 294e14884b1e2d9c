import type { ForeignBytes } from "../core/blob-store.js";
import { systemClock } from "../core/clock.js";
import type { Descriptor } from "../core/descriptor.js";
import { parseDigest } from "../core/digest.js";
import { isDistrusted } from "../core/distrusted.js";
import { isRegistryError, isStorageFull, RegistryError } from "../core/errors.js";
import { noEvents, type RuntimeOptions, safeSink } from "../core/events.js";
import { mapFound } from "../core/lookup.js";
import type { Storage } from "../core/metadata-store.js";
import { assertPermanentName } from "../core/name.js";
import { once, release, retain } from "../core/ownership.js";
import { recordKey } from "../core/records.js";
import type { StoringRegistry } from "../core/storing-registry.js";
import { type Duration, type Size, toBytes, toMilliseconds } from "../core/units.js";
import { unlessAborted, untilAborted } from "../core/until-aborted.js";
import { BlobIntake, restoreBlob, type TakeBlobOptions, takeBlob } from "./blob-bytes.js";
import { LocalBlobs } from "./blob-references.js";
import { storedDistrust } from "./distrust.js";
import { endedBy } from "./ended-by.js";
import { LocalListings } from "./listings.js";
import { LocalManifests } from "./manifests.js";
import { knownNames, storedNames } from "./names.js";
import type { Partition } from "./partition.js";
import { listPromotions, recordPromotion } from "./promotions.js";
import { readoptFromQuarantine } from "./quarantine.js";
import { countUsage, Quota, type RegistryUsage, type UsageOptions } from "./quota.js";
import { storedReferrers } from "./referrers.js";
import { LocalUploads } from "./upload-sessions.js";
import { storedVisibleDigests } from "./visible-digests.js";

export interface LocalRegistryOptions extends RuntimeOptions {
  /** Where bytes and records are kept. Several registries may share one; they then share bytes, never visibility. */
  readonly storage: Storage;
  /** Permanent: what this registry stores is recorded under it. Lower-case letters, digits, `-` and `.`. */
  readonly name: string;
  /** Lets manifests refer to content that is not here, as sparse mirrors do. Default: false, such a push is refused with MANIFEST_BLOB_UNKNOWN. */
  readonly sparse?: boolean;
  /** How long an upload may rest before it is swept; each append starts the time anew. Default: "24h". */
  readonly uploadTimeToLive?: Duration;
  /** How many uploads may be in progress; one more is refused with TOOMANYREQUESTS. Default: 10,000. */
  readonly maxUploads?: number;
  /** How many bytes uploads in progress may hold together; more are refused with INSUFFICIENT_STORAGE, and the uploads can go on later. Default: "1TiB". */
  readonly maxUploadBytes?: Size;
  /**
   * How many of the uploads one caller may have in progress, or one address where callers are anonymous (a /64 of IPv6); one more is refused with TOOMANYREQUESTS.
   * Default: 1,000.
   */
  readonly maxUploadsPerCaller?: number;
  /** How many of the bytes one caller's uploads may hold, or those of one address; more are refused with INSUFFICIENT_STORAGE. Default: "256GiB". */
  readonly maxUploadBytesPerCaller?: Size;
  /**
   * What the distinct blobs that its repositories refer to and its manifests may take up; more is refused with DENIED. Changes of a registry with a quota happen one
   * after the other. Default: no limit.
   */
  readonly maxBytes?: Size;
  /** How many repositories there may be; another one is refused with DENIED. Default: no limit. */
  readonly maxRepositories?: number;
}

/** A registry that stores, and knows what it takes up. */
export interface LocalRegistry extends StoringRegistry {
  /**
   * Without a quota it is counted with each call, from all records. With one it is kept up to date; `recount` counts anew, for when records were changed past
   * this registry, and changes wait for it.
   */
  usage(o?: UsageOptions): Promise<RegistryUsage>;
  /**
   * Makes bytes that another program keeps, and does not change in place, a blob of a repository without sending them through this process: by a hard link, or by a copy
   * within the object store. `undefined` when the store cannot: they are then to be put.
   * @throws RegistryError DIGEST_INVALID or SIZE_INVALID when the bytes are others, BLOB_UNKNOWN when there are none.
   */
  takeBlob(
    repository: string,
    expected: { readonly digest: string; readonly size: number },
    source: ForeignBytes,
    o?: TakeBlobOptions,
  ): Promise<Descriptor | undefined>;
}

/**
 * A registry that stores what is pushed to it.
 *
 * @throws RegistryError NAME_INVALID for a malformed `name`.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const release = localRegistry({ storage: memoryStorage(), name: "release" });
 * await release.ready();
 * const upload = await release.startUpload("team/app");
 * await upload.cancel();
 * await release.close();
 * ```
 */
export function localRegistry(options: LocalRegistryOptions): LocalRegistry {
  const { storage, name, maxBytes, maxRepositories = Number.POSITIVE_INFINITY, clock = systemClock } = options;
  if (!(maxRepositories >= 0)) throw new RegistryError("UNKNOWN", "maxRepositories must be a number from 0");
  const limits = { bytes: maxBytes === undefined ? Number.POSITIVE_INFINITY : toBytes(maxBytes), repositories: maxRepositories };
  const limited = Number.isFinite(limits.bytes) || Number.isFinite(limits.repositories);
  const quota = limited ? new Quota(storage.metadata, name, limits, clock) : undefined;
  const { registry, intake, partition } = localStore(options, quota);
  return Object.assign(registry, {
    usage: async (o?: UsageOptions) =>
      quota ? quota.usage(o) : { ...(await countUsage(endedBy(storage.metadata, o?.signal), name)), quota: {} },
    takeBlob: (
      repository: string,
      expected: { readonly digest: string; readonly size: number },
      source: ForeignBytes,
      o?: TakeBlobOptions,
    ) => takeBlob(partition, intake, repository, expected, source, o),
  });
}

/** A local registry together with its intake, for a cache that adopts what it spooled. */
export function localStore(
  options: Omit<LocalRegistryOptions, "maxBytes" | "maxRepositories">,
  quota?: Quota,
): { registry: StoringRegistry; intake: BlobIntake; partition: Partition } {
  const { storage, name, sparse = false, uploadTimeToLive = "24h", maxUploads = 10_000, maxUploadBytes = "1TiB" } = options;
  const { maxUploadsPerCaller = 1000, maxUploadBytesPerCaller = "256GiB" } = options;
  assertPermanentName(name, "registry");
  const partition: Partition = {
    name,
    blobs: storage.blobs,
    metadata: quota?.metadata ?? storage.metadata,
    ...(quota && { quota }),
    clock: options.clock ?? systemClock,
    events: safeSink(options.events ?? noEvents),
    served: { member: [name] },
  };
  const distrust = storedDistrust(partition);
  const blobs = new LocalBlobs(partition, distrust);
  const intake = new BlobIntake(partition);
  const manifests = new LocalManifests(partition);
  const listings = new LocalListings(partition);
  const uploads = new LocalUploads(partition, intake, {
    timeToLive: toMilliseconds(uploadTimeToLive),
    limits: {
      sessions: { all: maxUploads, each: maxUploadsPerCaller },
      bytes: { all: toBytes(maxUploadBytes), each: toBytes(maxUploadBytesPerCaller) },
    },
  });
  const known = knownNames(partition);
  const parts = [storage.blobs, storage.metadata];
  retain(parts);

  const registry: StoringRegistry = {
    identity: `local ${name}`,
    sparse,
    // Reads do not look at the signal: they take a moment, and a server makes a signal only for requests that ask for it.
    resolveManifest: async (repository, reference) => mapFound(await manifests.get(repository, reference), ({ descriptor }) => descriptor),
    getManifest: (repository, reference) => manifests.get(repository, reference),
    resolveBlob: (repository, digest, o) => blobs.resolve(repository, digest, { relied: o?.priority !== "background" }),
    getBlob: (repository, digest, o) => blobs.get(repository, digest, o),
    listTags: (repository, page) => listings.tags(repository, page),
    listRepositories: (page) => listings.repositories(page),
    listReferrers: async (repository, subject, page) => storedReferrers(partition, repository, parseDigest(subject), page),
    putManifest: (repository, reference, content, o) =>
      unlessAborted(o?.signal, () => manifests.put(repository, reference, content, sparse ? { ...o, references: "trust" } : o)),
    putBlob: (repository, expected, source, o) => unlessAborted(o?.signal, () => uploads.put(repository, expected, source, o)),
    async mountBlob(repository, text, from, o) {
      o?.signal?.throwIfAborted();
      const digest = parseDigest(text);
      if (!from) return blobs.copyFromAny(repository, digest, o);
      if (from.registry === registry) return blobs.copy(from.repository, repository, digest);
      if (await isDistrusted(distrust, repository, digest)) return undefined;
      // Another registry vouches for it; without a transfer it can only be had where both share the store.
      const there = await from.registry.resolveBlob(from.repository, digest, o);
      const here = there.kind === "found" ? await blobs.holds(digest) : undefined;
      // A registry that says yes to everything would give away what others have here: it has to know the size.
      if (!here || there.kind !== "found" || there.value.size !== here.size) return undefined;
      try {
        await blobs.add(repository, here);
        return here;
      } catch (error) {
        // A cache evicted it in between: the client uploads.
        if (isRegistryError(error) && error.code === "BLOB_UNKNOWN") return undefined;
        throw error;
      }
    },
    startUpload: (repository, o) => unlessAborted(o?.signal, () => uploads.start(repository, o)),
    resumeUpload: (repository, id, o) => unlessAborted(o?.signal, () => uploads.resume(repository, id, o)),
    deleteManifest: (repository, reference, o) => unlessAborted(o?.signal, () => manifests.delete(repository, reference, o)),
    deleteBlob: (repository, digest, o) => unlessAborted(o?.signal, () => blobs.delete(repository, digest, o)),
    addBlobReference: (repository, descriptor, origin) => blobs.add(repository, descriptor, origin),
    holdsBlob: (digest) => blobs.holds(digest),
    listManifests: (repository, page) => listings.manifests(repository, page),
    listBlobReferences: (repository, page) => listings.blobReferences(repository, page),
    listTagsOf: (repository, digest, page) => listings.tagsOf(repository, digest, page),
    storedAt: (repository, reference) => listings.storedAt(repository, reference),
    restoreBlob: (expected, source, o) => restoreBlob(partition, expected, source, o),
    recordPromotion: (promotion) => recordPromotion(partition, promotion),
    listPromotions: (repository, page) => listPromotions(partition, repository, page),
    readoptBlob: (digest, o) => readoptFromQuarantine(partition, digest, { signal: o?.signal }),
    visibleDigests: (scope) => storedVisibleDigests(partition, scope),
    nameMemory: () => storedNames(partition),
    nameIndex: () => known,
    distrust: () => distrust,
    async bindMember(member, identity) {
      const key = recordKey.member(name, member);
      await partition.metadata.commit([{ key, is: "absent" }], [{ put: key, value: { identity } }]);
      const bound = (await partition.metadata.get(key))?.value.identity;
      if (bound === identity) return;
      throw new RegistryError(
        "DENIED",
        `the connector name ${JSON.stringify(member)} stands for ${JSON.stringify(bound)} in ${JSON.stringify(name)}, and blob references remember it: give the connector to ${JSON.stringify(identity)} another name`,
      );
    },
    forNamespace: () => undefined,
    async ready(o) {
      await Promise.all(parts.map((part) => part.ready()));
      // On a full disk nothing can be written. Reads go on, and so does what frees something.
      await untilAborted(uploads.sweep(), o?.signal).catch(unlessFull);
      // Counted now, not in the first push. Without a quota nobody keeps the record: a later quota would believe it.
      const usage = recordKey.usage(name);
      await (quota ? quota.usage(o) : partition.metadata.commit([{ key: usage, is: "present" }], [{ remove: usage }])).catch(unlessFull);
    },
    close: once(() => release(parts)),
  };
  return { registry, intake, partition };
}

function unlessFull(error: unknown): void {
  if (!isStorageFull(error)) throw error;
}
