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
type RestoreOutcome =
  | { readonly kind: "restored" }
  /** Nobody misses it: no repository refers to it, or only caches do, which ask their sources with the next pull. */
  | { readonly kind: "unreferenced" }
  | { readonly kind: "lost"; readonly repositories: readonly ReferencingRepository[]; readonly omitted: number; readonly why: string };

interface LostBlobsOptions {
  readonly metadata: MetadataStore;
  readonly providers: readonly BlobProvider[];
  readonly signal: AbortSignal;
  /** Called with the number of bytes that arrive. */
  received(bytes: number): void;
}

/** Thousands of repositories may refer to a blob, and each may be a question to an upstream. */
const mostAsked = 100;
/** How many repositories are named: enough to know whom to ask to push it again. */
const mostRepositories = 10;

/**
 * Restores blobs whose bytes are out of use, from whoever a repository that refers to them may ask. The bytes are shared, so all that refer to them have them again.
 */
export class LostBlobs {
  readonly #o: LostBlobsOptions;
  readonly #byIdentity = new Map<string, BlobProvider[]>();

  constructor(options: LostBlobsOptions) {
    this.#o = options;
    for (const provider of options.providers) {
      const identity = ("local" in provider ? provider.local : provider).identity ?? "";
      this.#byIdentity.set(identity, [...(this.#byIdentity.get(identity) ?? []), provider]);
    }
  }

  /** @throws the signal's reason. Why it cannot be restored is in the answer. */
  async restore(digest: Digest, size: number): Promise<RestoreOutcome> {
    const repositories: ReferencingRepository[] = [];
    const reasons = new Set<string>();
    let count = 0;
    let asked = 0;
    for await (const { registry, repository, plain } of this.#referencing(digest)) {
      if (plain && ++count <= mostRepositories) repositories.push({ registry, repository });
      const providers = this.#byIdentity.get(plain ? `local ${registry}` : `cache ${registry}`) ?? [];
      if (providers.length === 0) continue;
      if (++asked > mostAsked) {
        reasons.add(`only ${mostAsked} repositories were asked for`);
        continue;
      }
      for (const provider of providers) {
        const why = await this.#through(provider, repository, digest, size);
        if (why === undefined) return { kind: "restored" };
        reasons.add(why);
      }
    }
    if (count === 0) return { kind: "unreferenced" };
    const why = [...reasons].slice(0, mostRepositories).join("; ") || "nobody was given who may be asked for it";
    return { kind: "lost", repositories, omitted: count - repositories.length, why };
  }

  /** Blob references to the store's bytes, and those of caches, which have a source to ask. Those of others with an origin have lost nothing. */
  async *#referencing(digest: Digest): AsyncGenerator<ReferencingRepository & { plain: boolean }> {
    const { metadata } = this.#o;
    for await (const registry of registriesReferringTo(metadata, digest)) {
      const cache = this.#byIdentity.has(`cache ${registry}`) || (await metadata.get(recordKey.cachedBlob(registry, digest))) !== undefined;
      for await (const page of recordPages(metadata, "linkByDigest", [digest, registry])) {
        for (const { key } of page) {
          const [, , repository = ""] = key.parts;
          const reference = await metadata.get(recordKey.link(registry, repository, digest));
          if (!reference) continue;
          const plain = !cache && !reference.value.origin;
          if (plain || cache) yield { registry, repository, plain };
        }
      }
    }
  }

  /** @returns why not; `undefined` when the blob is here again. */
  async #through(provider: BlobProvider, repository: string, digest: Digest, size: number): Promise<string | undefined> {
    const { signal, metadata } = this.#o;
    try {
      const why = await ("local" in provider ? this.#fetch(provider, repository, digest, size) : this.#fill(provider, repository, digest));
      if (why !== undefined) return why;
    } catch (error) {
      signal.throwIfAborted();
      // A full disk or a quota: the next blob may fit.
      if (isRegistryError(error)) return error.message;
      throw error;
    }
    // A cache passes on what is too large for it, and one of the same name may have another storage.
    if (await metadata.get(recordKey.blob(digest))) return undefined;
    return `${provider.identity ?? "a registry given in heal"} has it and did not store it here`;
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
