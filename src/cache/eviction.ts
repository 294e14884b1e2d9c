import { LRUCache } from "lru-cache";
import { useGranularity } from "../core/blob-reference.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { reportFault } from "../core/events.js";
import type { Change, Condition, MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { untilAborted } from "../core/until-aborted.js";
import { markForDeletion, removeMarkedBlob, unmarkForDeletion } from "../local/blob-references.js";
import { recordPages } from "../local/every-record.js";
import type { Partition } from "../local/partition.js";
import { sourceMember } from "./manifest-cache.js";

interface CacheEvictionOptions {
  readonly partition: Partition;
  /** What the cache's blobs may take up; `Infinity` for no limit of its own. */
  readonly maxBytes: number;
  /** The part of the volume, from 0 to 1, that stays free for others. */
  readonly keepFree: number;
}

/** An eviction goes down to this part of the limit, so that not every fill has to evict something. */
const lowWatermark = 0.9;
/** What was used within this time stays: nobody's pull loses the other half of what it has begun, and a HEAD that said yes is true for a while. Milliseconds. */
const grace = 60_000;
const rememberedUses = 100_000;
/** The bytes are counted again after this time, since other processes that share the storage store and evict too. Milliseconds. */
const recountAfter = 10 * 60_000;
/** How many of the least recently used are looked for in one go. */
const batchSize = 1000;

interface Candidate {
  readonly digest: Digest;
  readonly size: number;
  readonly lastUsedAt: number;
}

/**
 * What an eviction is for: the `budget` of this cache, which counts what the cache refers to, or the `volume`, on which only bytes that are gone make a difference.
 */
type Purpose = "budget" | "volume";

/**
 * How much a cache takes up, and what of it goes when that is too much: the least recently used first, and nothing that another registry refers to.
 *
 * Each blob of the cache has a record with its size and its last use (`cachedBlob`). The sum of these sizes is what counts against `maxBytes`. An eviction is begun when a
 * blob was added, when the cache is made ready, and when a store is full; evictions run one after the other. One that removes a blob marks it for deletion, looks again
 * whether somebody refers to it ({@link SharedBlobs}), and removes it only then. The cache's own blob references stay and lead to the source from then on, so that the
 * next pull brings the blob back.
 */
export class CacheEviction {
  readonly #o: CacheEvictionOptions;
  readonly #shared: SharedBlobs;
  /** Bytes of all blobs of the cache, counted when they are first needed. */
  #counted: Promise<number> | undefined;
  #countedAt = 0;
  /** What came and went since the count began. */
  #change = 0;
  readonly #closing = new AbortController();
  #last: Promise<unknown> = Promise.resolve();
  /** What this process knows of uses: exact, while the record is to the hour. */
  readonly #uses = new LRUCache<Digest, { readonly at: number; readonly recordedAt: number }>({ max: rememberedUses });

  constructor(options: CacheEvictionOptions) {
    this.#o = options;
    this.#shared = new SharedBlobs(options.partition);
  }

  /** The changes that make a newly stored blob part of the cache. */
  entry(digest: Digest, size: number): Change {
    const { name, clock } = this.#o.partition;
    return { put: recordKey.cachedBlob(name, digest), value: { size, lastUsedAt: clock.now() } };
  }

  /** Evicts in the background what does not fit into a budget that is new, or smaller than it was. A failure is told as a fault: a cache over its budget works. */
  start(): void {
    if (this.#o.maxBytes < Number.POSITIVE_INFINITY) this.#trimLater();
  }

  /** Ends an eviction with the blob that it is at, and waits for that. */
  async close(): Promise<void> {
    this.#closing.abort(new RegistryError("UNAVAILABLE", `${this.#o.partition.name} is closing`, { retryAfter: 1 }));
    await this.#last;
  }

  /** A blob with such an entry was stored. */
  added(size: number): void {
    this.#change += size;
    this.#trimLater();
  }

  /** Bytes that another registry, or another process, brought into the store are now this cache's too. */
  async share(digest: Digest, size: number): Promise<void> {
    const { name, metadata } = this.#o.partition;
    const key = recordKey.cachedBlob(name, digest);
    if (await metadata.commit([{ key, is: "absent" }], [this.entry(digest, size)])) this.added(size);
  }

  /** Somebody asked for the blob. */
  async used(digest: Digest): Promise<void> {
    const { name, clock, metadata } = this.#o.partition;
    const now = clock.now();
    const recordedAt = this.#uses.get(digest)?.recordedAt ?? Number.NEGATIVE_INFINITY;
    const isRecorded = now - recordedAt < useGranularity;
    this.#uses.set(digest, { at: now, recordedAt: isRecorded ? recordedAt : now });
    if (isRecorded) return;
    const key = recordKey.cachedBlob(name, digest);
    const entry = await metadata.get(key);
    if (!entry || now - entry.value.lastUsedAt < useGranularity) return;
    await metadata.commit([{ key, is: "version", version: entry.version }], [{ put: key, value: { ...entry.value, lastUsedAt: now } }]);
  }

  /** Bytes that the cache's blobs take up. */
  async bytes(): Promise<number> {
    this.#counted ??= this.#count().catch((error) => {
      this.#counted = undefined;
      throw error;
    });
    return (await this.#counted) + this.#change;
  }

  /** Evicts down to the low watermark where a limit is exceeded. @throws the reason for closing once the cache closes. */
  trim(): Promise<void> {
    const { signal } = this.#closing;
    const trimmed = this.#oneAtATime(async () => {
      signal.throwIfAborted();
      const { maxBytes, keepFree, partition } = this.#o;
      if (partition.clock.elapsed() - this.#countedAt > recountAfter) this.#counted = undefined;
      const used = await this.bytes();
      const over = used > maxBytes ? used - maxBytes * lowWatermark : 0;
      const volume = keepFree > 0 ? await partition.blobs.space?.() : undefined;
      const lacking = volume && volume.free < volume.total * keepFree ? volume.total * keepFree - volume.free : 0;
      if (over > 0) await this.#evictOldest(over, "budget");
      const still = lacking - over;
      if (still > 0) await this.#evictOldest(Math.min(still, used), "volume");
    });
    return untilAborted(trimmed, signal);
  }

  #trimLater(): void {
    this.trim().catch((error: unknown) => {
      if (!this.#closing.signal.aborted) reportFault(this.#o.partition, "eviction failed", error);
    });
  }

  /** For a store that is full. Whether anything could be freed. */
  async free(bytes: number): Promise<boolean> {
    return (await this.#oneAtATime(() => this.#evictOldest(Math.max(bytes, 1), "volume"))) > 0;
  }

  /** What one eviction has freed, the next need not. */
  #oneAtATime<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }

  /** Answers how many bytes were freed, also where closing ended it before. */
  async #evictOldest(wanted: number, purpose: Purpose): Promise<number> {
    let freed = 0;
    let last: Candidate | undefined;
    while (freed < wanted) {
      const oldest = await this.#oldest(last);
      for (const candidate of oldest) {
        if (freed >= wanted || this.#closing.signal.aborted) return freed;
        const outcome = await this.#remove(candidate, purpose);
        if (outcome === "freed" || (outcome === "given up" && purpose === "budget")) freed += candidate.size;
      }
      last = oldest.at(-1);
      if (oldest.length < batchSize) break;
    }
    return freed;
  }

  /** The least recently used blobs behind this one, in order and in bounded memory. None once the cache closes. */
  async #oldest(after: Candidate | undefined): Promise<Candidate[]> {
    const { clock } = this.#o.partition;
    const latest = clock.now() - grace;
    let oldest: Candidate[] = [];
    for await (const entry of this.#entries()) {
      if (this.#closing.signal.aborted) return [];
      const candidate = { ...entry, lastUsedAt: Math.max(entry.lastUsedAt, this.#uses.peek(entry.digest)?.at ?? 0) };
      if (candidate.lastUsedAt > latest || (after && byAge(candidate, after) <= 0)) continue;
      oldest.push(candidate);
      if (oldest.length < 2 * batchSize) continue;
      oldest = oldest.sort(byAge).slice(0, batchSize);
    }
    return oldest.sort(byAge).slice(0, batchSize);
  }

  /**
   * Marks a blob for deletion, looks again, then removes it for all caches that have it: a blob reference that was made before the mark is seen by the second look, and one
   * that is made after it takes the mark away.
   */
  async #remove({ digest, size }: Candidate, purpose: Purpose): Promise<"freed" | "given up" | "kept"> {
    const { name, metadata, clock } = this.#o.partition;
    const key = recordKey.blob(digest);
    const blob = await metadata.get(key);
    if (!blob) {
      // A scrub has taken the bytes out of use. Were they taken into use again, this cache's blob references would keep them, in nobody's account.
      if (await metadata.commit([{ key, is: "absent" }], await this.#shared.gone(name, digest, size))) this.#change -= size;
      return "kept";
    }
    const others = await this.#shared.otherCaches(digest);
    if (others === undefined) return "kept";
    const [other] = others;
    if (other !== undefined && purpose === "budget")
      return this.#giveUp(digest, size, { key, is: "version", version: blob.version }, other);
    for (const cache of others) if (await this.#shared.wasUsedSince(cache, digest, clock.now() - grace)) return "kept";
    const marked = await markForDeletion(metadata, digest, blob);
    if (!marked) return "kept";
    const still = await this.#shared.otherCaches(digest);
    if (still === undefined || still.some((cache) => !others.includes(cache))) {
      await unmarkForDeletion(metadata, marked);
      return "kept";
    }
    const changes: Change[] = [];
    for (const cache of [name, ...still]) changes.push(...(await this.#shared.gone(cache, digest, marked.blob.size)));
    if (!(await removeMarkedBlob(this.#o.partition, marked, changes))) return "kept";
    this.#change -= size;
    return "freed";
  }

  /** The bytes are another cache's as well: they stay for that one, unless it gives them up at the same time, and count no more for this one. */
  async #giveUp(digest: Digest, size: number, kept: Condition, other: string): Promise<"given up" | "kept"> {
    const { name, metadata } = this.#o.partition;
    const conditions: Condition[] = [kept, { key: recordKey.cachedBlob(other, digest), is: "present" }];
    if (!(await metadata.commit(conditions, await this.#shared.gone(name, digest, size)))) return "kept";
    this.#change -= size;
    await this.#shared.leadBack(digest);
    return "given up";
  }

  async #count(): Promise<number> {
    this.#countedAt = this.#o.partition.clock.elapsed();
    const before = this.#change;
    let bytes = 0;
    for await (const { size } of this.#entries()) {
      this.#closing.signal.throwIfAborted();
      bytes += size;
    }
    // What changed meanwhile is in both or in one: nobody can tell, and the next count puts it right.
    this.#change -= before;
    return bytes;
  }

  async *#entries(): AsyncGenerator<Candidate> {
    const { name, metadata } = this.#o.partition;
    for await (const page of recordPages(metadata, "cachedBlob", [name]))
      for (const { key, value } of page) yield { digest: parseDigest(key.parts[1] ?? ""), ...value };
  }
}

function byAge(a: Candidate, b: Candidate): number {
  if (a.lastUsedAt !== b.lastUsedAt) return a.lastUsedAt - b.lastUsedAt;
  return a.digest < b.digest ? -1 : Number(a.digest > b.digest);
}

/** A registry with more blob references to one blob than this is taken for one that needs it. */
const referencesLooked = 1000;

/**
 * Who counts on a blob of a storage, as far as a cache that would evict it has to know. A blob reference of a cache has the origin {@link sourceMember} where the cache
 * does not have the bytes: it leads to the source, and keeps nothing.
 */
class SharedBlobs {
  readonly #in: Pick<Partition, "name" | "metadata" | "clock">;

  constructor(partition: Pick<Partition, "name" | "metadata" | "clock">) {
    this.#in = partition;
  }

  /** The changes by which a cache's blob references lead to its source again, and the blob counts no more. */
  async gone(cache: string, digest: Digest, size: number): Promise<Change[]> {
    const { metadata, clock } = this.#in;
    const repositories = await metadata.names({ kind: "linkByDigest", under: [digest, cache], limit: 100_000 });
    const references = repositories.map((repository) => ({
      put: recordKey.link(cache, repository, digest),
      value: { size, linkedAt: clock.now(), origin: { member: sourceMember, repository } },
    }));
    return [...references, { remove: recordKey.cachedBlob(cache, digest) }];
  }

  /**
   * A repository that referred to the blob while the cache gave it up found it in the cache's account, and did not enter it there. Its blob reference leads to the source
   * too, unless the cache has the blob again. Else it would keep the bytes for ever, in nobody's account.
   */
  async leadBack(digest: Digest): Promise<void> {
    const { name, metadata, clock } = this.#in;
    for await (const page of recordPages(metadata, "linkByDigest", [digest, name])) {
      for (const { key: found } of page) {
        const repository = found.parts[2] ?? "";
        const key = recordKey.link(name, repository, digest);
        const reference = await metadata.get(key);
        if (!reference || reference.value.origin) continue;
        const origin = { member: sourceMember, repository };
        await metadata.commit(
          [
            { key, is: "version", version: reference.version },
            { key: recordKey.cachedBlob(name, digest), is: "absent" },
          ],
          [{ put: key, value: { size: reference.value.size, linkedAt: clock.now(), origin } }],
        );
      }
    }
  }

  async wasUsedSince(cache: string, digest: Digest, time: number): Promise<boolean> {
    const entry = await this.#in.metadata.get(recordKey.cachedBlob(cache, digest));
    return entry !== undefined && entry.value.lastUsedAt > time;
  }

  /** The other caches that have the blob; `undefined` when another registry refers to it, to the bytes or by way of a cache. */
  async otherCaches(digest: Digest): Promise<string[] | undefined> {
    const { name, metadata } = this.#in;
    const caches: string[] = [];
    for await (const registry of registriesReferringTo(metadata, digest)) {
      if (registry === name) continue;
      if (await metadata.get(recordKey.cachedBlob(registry, digest))) caches.push(registry);
      else if (!(await this.#leadToItsSource(registry, digest))) return undefined;
    }
    return caches;
  }

  /** Whether all blob references of a registry are those of a cache that does not have the bytes, or not any more. */
  async #leadToItsSource(registry: string, digest: Digest): Promise<boolean> {
    const { metadata } = this.#in;
    // Records and not names: names may lag behind another process.
    const references = await metadata.page({ kind: "linkByDigest", under: [digest, registry], limit: referencesLooked + 1 });
    if (references.length > referencesLooked) return false;
    for (const { key } of references) {
      const reference = await metadata.get(recordKey.link(registry, key.parts[2] ?? "", digest));
      if (reference && reference.value.origin?.member !== sourceMember) return false;
    }
    return true;
  }
}

/** Registries and caches of a storage that have a blob reference to a blob. */
export async function* registriesReferringTo(metadata: MetadataStore, digest: Digest): AsyncGenerator<string> {
  let after: string | undefined;
  do {
    // One blob reference of each registry, since `after` is a registry here.
    const [item] = await metadata.page({ kind: "linkByDigest", under: [digest], limit: 1, ...(after !== undefined && { after }) });
    after = item?.key.parts[1];
    if (after !== undefined) yield after;
  } while (after !== undefined);
}
