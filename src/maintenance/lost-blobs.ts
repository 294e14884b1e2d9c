import type { CachedRegistry } from "../cache/cached.js";
import { registriesReferringTo } from "../cache/eviction.js";
import { contentChunks } from "../core/content.js";
import type { Digest } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { mediaTypes } from "../core/media-types.js";
import type { MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { recordPages } from "../local/every-record.js";
import { answered, type InspectableAggregate, Places } from "./availability.js";
import { transfer } from "./blob-transfer.js";

/** Through which lost blobs may be fetched: an aggregate, from its connectors; a cache, from its source. */
export type BlobProvider = InspectableAggregate | CachedRegistry;

/** A repository that counts on a blob of the storage. */
export interface ReferencingRepository {
  /** The name of the local registry. */
  readonly registry: string;
  readonly repository: string;
}

/** What became of a blob whose bytes are out of use. */
export type RestoreOutcome =
  | { readonly kind: "healed" }
  /** Nobody misses it: no repository claims it, or only caches do, which ask their sources with the next pull. */
  | { readonly kind: "unclaimed" }
  | { readonly kind: "lost"; readonly repositories: readonly ReferencingRepository[]; readonly omitted: number; readonly why: string };

export interface LostBlobsOptions {
  readonly metadata: MetadataStore;
  readonly healers: readonly BlobProvider[];
  readonly signal: AbortSignal;
  /** Told of bytes that arrive. */
  received(bytes: number): void;
}

/** A blob may be claimed by thousands of repositories, and each may be a question to an upstream. */
const mostAsked = 100;
/** Enough to know whom to ask to push it again. */
const repositoriesTold = 10;

/** Brings blobs back whose bytes are out of use, from whoever a repository that claims them may ask. The bytes are shared, so all that claim them have them again. */
export class LostBlobs {
  readonly #o: LostBlobsOptions;
  readonly #byIdentity = new Map<string, BlobProvider[]>();

  constructor(options: LostBlobsOptions) {
    this.#o = options;
    for (const healer of options.healers) {
      const identity = ("local" in healer ? healer.local : healer).identity ?? "";
      this.#byIdentity.set(identity, [...(this.#byIdentity.get(identity) ?? []), healer]);
    }
  }

  /** @throws the signal's reason. What keeps it from being healed is in the answer. */
  async heal(digest: Digest, size: number): Promise<RestoreOutcome> {
    const repositories: ReferencingRepository[] = [];
    const reasons = new Set<string>();
    let count = 0;
    let asked = 0;
    for await (const { registry, repository, plain } of this.#referencing(digest)) {
      if (plain && ++count <= repositoriesTold) repositories.push({ registry, repository });
      const healers = this.#byIdentity.get(plain ? `local ${registry}` : `cache ${registry}`) ?? [];
      if (healers.length === 0) continue;
      if (++asked > mostAsked) {
        reasons.add(`only ${mostAsked} repositories were asked for`);
        continue;
      }
      for (const healer of healers) {
        const why = await this.#through(healer, repository, digest, size);
        if (why === undefined) return { kind: "healed" };
        reasons.add(why);
      }
    }
    if (count === 0) return { kind: "unclaimed" };
    const why = [...reasons].slice(0, repositoriesTold).join("; ") || "nobody was given who may be asked for it";
    return { kind: "lost", repositories, omitted: count - repositories.length, why };
  }

  /** Links to the store's bytes, and those of caches, which have a source to ask. Links of others that lead elsewhere have lost nothing. */
  async *#referencing(digest: Digest): AsyncGenerator<ReferencingRepository & { plain: boolean }> {
    const { metadata } = this.#o;
    for await (const registry of registriesReferringTo(metadata, digest)) {
      const cache = this.#byIdentity.has(`cache ${registry}`) || (await metadata.get(recordKey.cachedBlob(registry, digest))) !== undefined;
      for await (const page of recordPages(metadata, "linkByDigest", [digest, registry])) {
        for (const { key } of page) {
          const [, , repository = ""] = key.parts;
          const link = await metadata.get(recordKey.link(registry, repository, digest));
          if (!link) continue;
          const plain = !cache && !link.value.origin;
          if (plain || cache) yield { registry, repository, plain };
        }
      }
    }
  }

  /** @returns why not; `undefined` when the blob is here again. */
  async #through(healer: BlobProvider, repository: string, digest: Digest, size: number): Promise<string | undefined> {
    const { signal, metadata } = this.#o;
    try {
      const why = await ("local" in healer ? this.#fetch(healer, repository, digest, size) : this.#fill(healer, repository, digest));
      if (why !== undefined) return why;
    } catch (error) {
      signal.throwIfAborted();
      // A full disk or a quota: the next blob may fit.
      if (isRegistryError(error)) return error.message;
      throw error;
    }
    // A cache passes on what is too large for it, and one of the same name may have another storage.
    if (await metadata.get(recordKey.blob(digest))) return undefined;
    return `${healer.identity ?? "who was given to heal it"} has it and did not store it here`;
  }

  async #fetch(aggregate: InspectableAggregate, repository: string, digest: Digest, size: number): Promise<string | undefined> {
    const { signal, received } = this.#o;
    const blob = { mediaType: mediaTypes.octetStream, digest, size };
    const outcome = await transfer(new Places(aggregate).of(repository), blob, { signal, received }, (source) =>
      aggregate.local.putBlob(repository, blob, source, { signal }),
    );
    return outcome.kind === "done" ? undefined : outcome.why;
  }

  async #fill(cache: CachedRegistry, repository: string, digest: Digest): Promise<string | undefined> {
    const { signal, received } = this.#o;
    const lookup = await answered(() => cache.getBlob(repository, digest, { signal, priority: "background" }));
    if (lookup.kind === "denied" || lookup.kind === "unavailable") return lookup.error.message;
    if (lookup.kind !== "found") return `${cache.identity} does not have it`;
    for await (const chunk of contentChunks(lookup.value.content)) received(chunk.byteLength);
    return undefined;
  }
}
