import { systemClock } from "../core/clock.js";
import { parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { contained, noEvents, type Surroundings } from "../core/events.js";
import type { Storage } from "../core/metadata-store.js";
import { assertPermanentName } from "../core/name.js";
import { once, release, retain } from "../core/ownership.js";
import { recordKey } from "../core/records.js";
import type { LinkingRegistry } from "../core/registry.js";
import { type Duration, type Size, toBytes, toMilliseconds } from "../core/units.js";
import { LocalBlobs } from "./blobs.js";
import { LocalListings } from "./listings.js";
import { LocalManifests } from "./manifests.js";
import type { Partition } from "./partition.js";
import { storedReach } from "./reach.js";
import { listReferrers } from "./referrers.js";
import { LocalUploads } from "./uploads.js";

export interface LocalRegistryOptions extends Surroundings {
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
export function localRegistry(options: LocalRegistryOptions): LinkingRegistry {
  return localStore(options).registry;
}

/** A local registry together with its blobs, for a cache that adopts what it spooled. */
export function localStore(options: LocalRegistryOptions): { registry: LinkingRegistry; blobs: LocalBlobs; partition: Partition } {
  const { storage, name, sparse = false, uploadTimeToLive = "24h", maxUploads = 10_000, maxUploadBytes = "1TiB" } = options;
  assertPermanentName(name, "registry");
  const partition: Partition = {
    name,
    blobs: storage.blobs,
    metadata: storage.metadata,
    clock: options.clock ?? systemClock,
    events: contained(options.events ?? noEvents),
    served: { member: [name] },
  };
  const blobs = new LocalBlobs(partition);
  const manifests = new LocalManifests(partition);
  const listings = new LocalListings(partition);
  const uploads = new LocalUploads(partition, blobs, {
    timeToLive: toMilliseconds(uploadTimeToLive),
    limits: { sessions: maxUploads, bytes: toBytes(maxUploadBytes) },
  });
  const parts = [storage.blobs, storage.metadata];
  retain(parts);

  const registry: LinkingRegistry = {
    identity: `local ${name}`,
    resolveManifest: async (repository, reference) => {
      const lookup = await manifests.get(repository, reference);
      return lookup.kind === "found" ? { ...lookup, value: lookup.value.descriptor } : lookup;
    },
    getManifest: (repository, reference) => manifests.get(repository, reference),
    resolveBlob: (repository, digest) => blobs.resolve(repository, digest),
    getBlob: (repository, digest, o) => blobs.get(repository, digest, o),
    listTags: (repository, page) => listings.tags(repository, page),
    listRepositories: (page) => listings.repositories(page),
    listReferrers: async (repository, subject, page) => listReferrers(partition, repository, parseDigest(subject), page),
    putManifest: (repository, reference, content, o) =>
      manifests.put(repository, reference, content, sparse ? { ...o, references: "trust" } : o),
    putBlob: (repository, expected, source, o) => uploads.put(repository, expected, source, o),
    async mountBlob(repository, text, from, o) {
      const digest = parseDigest(text);
      if (!from) return blobs.copyAnyLink(repository, digest, o);
      if (from.registry === registry) return blobs.copyLink(from.repository, repository, digest);
      // Another registry vouches for it; without bytes it can only be linked where both share the store.
      const there = await from.registry.resolveBlob(from.repository, digest, o);
      const here = there.kind === "found" ? await blobs.holds(digest) : undefined;
      if (here) await blobs.link(repository, here);
      return here;
    },
    startUpload: (repository, o) => uploads.start(repository, o),
    resumeUpload: (repository, id, o) => uploads.resume(repository, id, o),
    deleteManifest: (repository, reference, o) => manifests.delete(repository, reference, o),
    deleteBlob: (repository, digest) => blobs.delete(repository, digest),
    linkBlob: (repository, descriptor, origin) => blobs.link(repository, descriptor, origin),
    holdsBlob: (digest) => blobs.holds(digest),
    listManifests: (repository, page) => listings.manifests(repository, page),
    listLinks: (repository, page) => listings.links(repository, page),
    reachMemory: (scope) => storedReach(partition, scope),
    async claimMember(member, identity) {
      const key = recordKey.member(name, member);
      await partition.metadata.commit([{ key, is: "absent" }], [{ put: key, value: { identity } }]);
      const bound = (await partition.metadata.get(key))?.value.identity;
      if (bound === identity) return;
      throw new RegistryError(
        "DENIED",
        `the connector name ${JSON.stringify(member)} stands for ${JSON.stringify(bound)} in ${JSON.stringify(name)}, and links remember it: give the connector to ${JSON.stringify(identity)} another name`,
      );
    },
    forNamespace: () => undefined,
    async ready() {
      await Promise.all(parts.map((part) => part.ready()));
      await uploads.sweep();
    },
    close: once(() => release(parts)),
  };
  return { registry, blobs, partition };
}
