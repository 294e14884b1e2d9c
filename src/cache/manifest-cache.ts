import { LRUCache } from "lru-cache";
import type { Descriptor } from "../core/descriptor.js";
import { isRegistryError } from "../core/errors.js";
import { type Lookup, mapFound, type Served } from "../core/lookup.js";
import { type Manifest, parseManifest } from "../core/manifest.js";
import { recordKey } from "../core/records.js";
import { requiredReferences } from "../core/references.js";
import type { CallOptions, LinkingRegistry, ManifestContent, Registry } from "../core/registry.js";
import { untilAborted } from "../core/until-aborted.js";
import type { Partition } from "../local/partition.js";

/** Links of a cache remember that their bytes come from its source, of which there is one. */
export const sourceMember = "source";

/** Tags whose last confirmation is kept in memory; the record of it is read for others. */
const freshTags = 50_000;

export interface ManifestCacheOptions {
  readonly source: Registry;
  readonly store: LinkingRegistry;
  readonly partition: Partition;
  /** Milliseconds. */
  readonly tagTtl: number;
  /** Called with every image that came from the source. */
  arrived(repository: string, manifest: Manifest): void;
}

/** Manifests of the source: digests never expire, tags are confirmed by HEAD once they are older than their time to live. */
export class ManifestCache {
  readonly #o: ManifestCacheOptions;
  readonly #checkedAt = new LRUCache<string, number>({ max: freshTags });
  readonly #flights = new Map<string, Promise<Lookup<ManifestContent>>>();
  readonly #hit: Served;

  constructor(options: ManifestCacheOptions) {
    this.#o = options;
    this.#hit = { ...options.partition.served, cache: "hit" };
  }

  async get(repository: string, reference: string, o?: CallOptions): Promise<Lookup<ManifestContent>> {
    const stored = await this.#o.store.getManifest(repository, reference);
    if (stored.kind === "found" && (reference.includes(":") || (await this.#isFresh(repository, reference)))) {
      return { ...stored, served: this.#hit };
    }
    // Detached from the caller: the first to ask may leave, the others still want the answer.
    const key = `${repository} ${reference}`;
    const running = this.#flights.get(key);
    if (running) return untilAborted(running, o?.signal);
    const flight = (reference.includes(":") ? this.#fetch(repository, reference) : this.#revalidate(repository, reference, stored)).finally(
      () => this.#flights.delete(key),
    );
    this.#flights.set(key, flight);
    return untilAborted(flight, o?.signal);
  }

  /** For a digest that is not here HEAD is passed on, since a GET may count against a pull limit; a tag is taken in at once, since its GET follows. */
  async resolve(repository: string, reference: string, o?: CallOptions): Promise<Lookup<Descriptor>> {
    if (reference.includes(":")) {
      const stored = await this.#o.store.resolveManifest(repository, reference);
      return stored.kind === "found"
        ? { ...stored, served: this.#hit }
        : this.#told(await this.#o.source.resolveManifest(repository, reference, o), "miss");
    }
    return mapFound(await this.get(repository, reference, o), (content) => content.descriptor);
  }

  async #revalidate(repository: string, tag: string, stored: Lookup<ManifestContent>): Promise<Lookup<ManifestContent>> {
    const { source, store } = this.#o;
    const now = await source.resolveManifest(repository, tag);
    switch (now.kind) {
      case "found": {
        if (stored.kind === "found" && stored.value.descriptor.digest === now.value.digest) {
          await this.#confirm(repository, tag);
          return { ...stored, served: this.#hit };
        }
        const fetched = await this.#fetch(repository, now.value.digest, tag);
        return fetched.kind === "unavailable" && stored.kind === "found" ? this.#stale(stored, fetched) : fetched;
      }
      case "absent":
        await store.deleteManifest(repository, tag).catch(ignoreUnknown);
        this.#checkedAt.delete(`${repository} ${tag}`);
        return now;
      case "denied":
      case "unavailable":
        return stored.kind === "found" ? this.#stale(stored, now) : now;
      case "linked":
        return { kind: "absent" };
    }
  }

  async #fetch(repository: string, digest: string, tag?: string): Promise<Lookup<ManifestContent>> {
    const { source, store } = this.#o;
    const here = tag === undefined ? undefined : await store.getManifest(repository, digest);
    const lookup = here?.kind === "found" ? here : await source.getManifest(repository, digest);
    if (lookup.kind !== "found") return lookup;
    const { bytes, descriptor } = lookup.value;
    const manifest = parseManifest(bytes, descriptor.mediaType);
    const origin = { member: sourceMember, repository };
    // Links first: once a manifest is visible, its layers are.
    const links = requiredReferences(manifest).blobs.map(async (blob) => {
      if ((await store.resolveBlob(repository, blob.digest)).kind === "absent") await store.linkBlob(repository, blob, origin);
    });
    await Promise.all(links);
    await store.putManifest(
      repository,
      digest,
      { bytes, mediaType: descriptor.mediaType },
      { references: "trust", ...(tag && { tags: [tag] }) },
    );
    if (tag !== undefined) await this.#confirm(repository, tag);
    this.#o.arrived(repository, manifest);
    return this.#told(lookup, "miss");
  }

  #told<T>(lookup: Lookup<T>, cache: "miss"): Lookup<T> {
    if (lookup.kind !== "found") return lookup;
    const { member } = this.#o.partition.served;
    return {
      ...lookup,
      served: { ...lookup.served, member: [...member, ...lookup.served.member.filter((name) => !member.includes(name))], cache },
    };
  }

  #stale(stored: Lookup<ManifestContent>, failure: Lookup<unknown>): Lookup<ManifestContent> {
    const why = failure.kind === "denied" || failure.kind === "unavailable" ? failure.error.message : "it did not answer";
    if (stored.kind !== "found") return stored;
    return {
      ...stored,
      served: { ...this.#hit, cache: "stale", warnings: [`the source could not be asked, so this may be outdated: ${why}`] },
    };
  }

  async #isFresh(repository: string, tag: string): Promise<boolean> {
    const { partition, tagTtl } = this.#o;
    const key = `${repository} ${tag}`;
    let checkedAt = this.#checkedAt.get(key);
    if (checkedAt === undefined) {
      checkedAt = (await partition.metadata.get(recordKey.freshness(partition.name, repository, tag)))?.value.checkedAt ?? 0;
      this.#checkedAt.set(key, checkedAt);
    }
    return partition.clock.now() - checkedAt < tagTtl;
  }

  async #confirm(repository: string, tag: string): Promise<void> {
    const { partition } = this.#o;
    const checkedAt = partition.clock.now();
    this.#checkedAt.set(`${repository} ${tag}`, checkedAt);
    await partition.metadata.commit([], [{ put: recordKey.freshness(partition.name, repository, tag), value: { checkedAt } }]);
  }
}

function ignoreUnknown(error: unknown): void {
  if (!isRegistryError(error) || error.code !== "MANIFEST_UNKNOWN") throw error;
}
