import { LRUCache } from "lru-cache";
import { useGranularity } from "../core/blob-reference.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { reportFault } from "../core/events.js";
import type { Change, Condition, MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { untilAborted } from "../core/until-aborted.js";
import { markForDeletion, removeMarkedBlob, unmarkForDeletion } from "../local/blob-bytes.js";
import { recordPages } from "../local/every-record.js";
import type { Partition } from "../local/partition.js";
import { sourceMember } from "./manifest-cache.js";

export interface CacheEvictionOptions {
  readonly partition: Partition;
  /** What the cache's blobs may take up; `Infinity` for no limit of its own. */
  readonly maxBytes: number;
  /** The part of the volume, from 0 to 1, that stays free for others. */
  readonly keepFree: number;
}

/** Down to this part of the limit once it is exceeded, so that not every fill has to evict something. */
const lowWatermark = 0.9;
/** Nobody's pull is made to wait for the other half of what it has begun, and a HEAD that said yes is true for a while. Milliseconds. */
const grace = 60_000;
const rememberedUses = 100_000;
/** Other processes that share the storage store and evict too. Milliseconds. */
const recountAfter = 10 * 60_000;
/** How many of the oldest are looked for in one go. */
const batchSize = 1000;

interface Candidate {
  readonly digest: Digest;
  readonly size: number;
  readonly lastUsedAt: number;
}

/** `signal`: of whoever began it. */
interface Count {
  readonly bytes: Promise<number>;
  readonly signal: AbortSignal | undefined;
}

/** How much a cache takes up, and what of it goes when that is too much: the least recently used first, and nothing that another registry refers to. */
export class CacheEviction {
  readonly #o: CacheEvictionOptions;
  readonly #claims: SharedBlobs;
  /** Bytes of all blobs that may be evicted; counted at the first need. */
  #counted: Count | undefined;
  #countedAt = 0;
  #change = 0;
  readonly #closing = new AbortController();
  #last: Promise<unknown> = Promise.resolve();
  readonly #uses = new LRUCache<Digest, { readonly at: number; readonly recordedAt: number }>({ max: rememberedUses });

  constructor(options: CacheEvictionOptions) {
    this.#o = options;
    this.#claims = new SharedBlobs(options.partition);
  }

  /** The changes that make a newly stored blob part of the cache. */
  entry(digest: Digest, size: number): Change {
    const { name, clock } = this.#o.partition;
    return { put: recordKey.cachedBlob(name, digest), value: { size, lastUsedAt: clock.now() } };
  }

  /**
   * Keeps to a budget that is new, or smaller than it was. What goes wrong is told and not thrown: a cache over its budget works.
   * @throws the signal's reason; what was evicted stays so.
   */
  async ready(signal?: AbortSignal): Promise<void> {
    if (this.#o.maxBytes === Number.POSITIVE_INFINITY) return;
    await this.trim(signal).catch((error) => {
      signal?.throwIfAborted();
      this.#fault(error);
    });
  }

  /** Ends an eviction with the blob that it is at, and waits for that. */
  async close(): Promise<void> {
    this.#closing.abort(new RegistryError("UNAVAILABLE", `${this.#o.partition.name} is closing`, { retryAfter: 1 }));
    await this.#last;
  }

  /** A blob with such an entry was stored. */
  added(size: number): void {
    this.#change += size;
    void this.trim().catch((error) => this.#fault(error));
  }

  /** Bytes that others brought into the store are now this cache's too. */
  async claimed(digest: Digest, size: number): Promise<void> {
    const { name, metadata } = this.#o.partition;
    const key = recordKey.cachedBlob(name, digest);
    if (await metadata.commit([{ key, is: "absent" }], [this.entry(digest, size)])) this.added(size);
  }

  /** Somebody asked for it. What this process knows itself is exact, the record is to the hour. */
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

  /** Bytes that the cache's blobs take up. @throws the signal's reason. */
  async bytes(signal?: AbortSignal): Promise<number> {
    for (;;) {
      this.#counted ??= this.#beginCount(signal);
      const count = this.#counted;
      try {
        return (await untilAborted(count.bytes, signal)) + this.#change;
      } catch (error) {
        // It ended with whoever began it: who else waits for it counts anew.
        if (signal?.aborted || !count.signal?.aborted) throw error;
      }
    }
  }

  #beginCount(signal: AbortSignal | undefined): Count {
    const bytes = this.#count(signal).catch((error) => {
      this.#counted = undefined;
      throw error;
    });
    return { bytes, signal };
  }

  /** Evicts down to the low watermark where a limit is exceeded. @throws the signal's reason. */
  trim(signal?: AbortSignal): Promise<void> {
    const closing = this.#closing.signal;
    const ending = signal ? AbortSignal.any([signal, closing]) : closing;
    const trimmed = this.#inTurn(async () => {
      ending.throwIfAborted();
      const { maxBytes, keepFree, partition } = this.#o;
      if (partition.clock.now() - this.#countedAt > recountAfter) this.#counted = undefined;
      const used = await this.bytes(ending);
      const over = used > maxBytes ? used - maxBytes * lowWatermark : 0;
      const volume = keepFree > 0 ? await partition.blobs.space?.() : undefined;
      const lacking = volume && volume.free < volume.total * keepFree ? volume.total * keepFree - volume.free : 0;
      if (over > 0) await this.#evictOldest(over, "claims", ending);
      const still = lacking - over;
      if (still > 0) await this.#evictOldest(Math.min(still, used), "bytes", ending);
    });
    return untilAborted(trimmed, ending);
  }

  /** For a store that is full. Whether anything could be freed. */
  async makeRoom(bytes: number): Promise<boolean> {
    return (await this.#inTurn(() => this.#evictOldest(Math.max(bytes, 1), "bytes", this.#closing.signal))) > 0;
  }

  /** One at a time: what one has freed the next need not. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work);
    this.#last = turn.catch(() => {});
    return turn;
  }

  /**
   * Answers how many bytes were freed, also where it was ended before.
   * @param counting a budget is about what the cache claims, a full volume about bytes.
   */
  async #evictOldest(wanted: number, counting: "claims" | "bytes", signal: AbortSignal): Promise<number> {
    let freed = 0;
    let last: Candidate | undefined;
    while (freed < wanted) {
      const oldest = await this.#oldest(last, signal);
      for (const candidate of oldest) {
        if (freed >= wanted || signal.aborted) return freed;
        const outcome = await this.#remove(candidate, counting);
        if (outcome === "freed" || (outcome === "given up" && counting === "claims")) freed += candidate.size;
      }
      last = oldest.at(-1);
      if (oldest.length < batchSize) break;
    }
    return freed;
  }

  /** The least recently used behind this one, those last, in bounded memory. None once the signal has ended it. */
  async #oldest(after: Candidate | undefined, signal: AbortSignal): Promise<Candidate[]> {
    const { clock } = this.#o.partition;
    const latest = clock.now() - grace;
    let oldest: Candidate[] = [];
    for await (const entry of this.#entries()) {
      if (signal.aborted) return [];
      const candidate = { ...entry, lastUsedAt: Math.max(entry.lastUsedAt, this.#uses.peek(entry.digest)?.at ?? 0) };
      if (candidate.lastUsedAt > latest || (after && byAge(candidate, after) <= 0)) continue;
      oldest.push(candidate);
      if (oldest.length < 2 * batchSize) continue;
      oldest = oldest.sort(byAge).slice(0, batchSize);
    }
    return oldest.sort(byAge).slice(0, batchSize);
  }

  /**
   * Condemns, looks again, then removes, for all caches that have it: a claim made before the condemnation is seen, one made after it lifts it. The cache's own links lead to the source
   * again, so that the next pull brings the blob back.
   */
  async #remove({ digest, size }: Candidate, counting: "claims" | "bytes"): Promise<"freed" | "given up" | "kept"> {
    const { name, metadata, clock } = this.#o.partition;
    const key = recordKey.blob(digest);
    const blob = await metadata.get(key);
    if (!blob) {
      // A scrub has taken the bytes out of use. Were they taken into use again, this cache's links would keep them, in nobody's account.
      if (await metadata.commit([{ key, is: "absent" }], await this.#claims.gone(name, digest, size))) this.#change -= size;
      return "kept";
    }
    const others = await this.#claims.ofOtherCaches(digest);
    if (others === undefined) return "kept";
    const [other] = others;
    if (other !== undefined && counting === "claims")
      return this.#giveUp(digest, size, { key, is: "version", version: blob.version }, other);
    for (const cache of others) if (await this.#claims.wasUsedSince(cache, digest, clock.now() - grace)) return "kept";
    const condemned = await markForDeletion(metadata, digest, blob);
    if (!condemned) return "kept";
    const still = await this.#claims.ofOtherCaches(digest);
    if (still === undefined || still.some((cache) => !others.includes(cache))) {
      await unmarkForDeletion(metadata, condemned);
      return "kept";
    }
    const changes: Change[] = [];
    for (const cache of [name, ...still]) changes.push(...(await this.#claims.gone(cache, digest, condemned.blob.size)));
    if (!(await removeMarkedBlob(this.#o.partition, condemned, changes))) return "kept";
    this.#change -= size;
    return "freed";
  }

  /** The bytes are another cache's as well, as long as that one does not give them up at the same time: this one claims them no more. */
  async #giveUp(digest: Digest, size: number, kept: Condition, other: string): Promise<"given up" | "kept"> {
    const { name, metadata } = this.#o.partition;
    const conditions: Condition[] = [kept, { key: recordKey.cachedBlob(other, digest), is: "present" }];
    if (!(await metadata.commit(conditions, await this.#claims.gone(name, digest, size)))) return "kept";
    this.#change -= size;
    await this.#claims.leadBack(digest);
    return "given up";
  }

  async #count(signal: AbortSignal | undefined): Promise<number> {
    this.#countedAt = this.#o.partition.clock.now();
    const before = this.#change;
    let bytes = 0;
    for await (const { size } of this.#entries()) {
      signal?.throwIfAborted();
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

  #fault(error: unknown): void {
    if (this.#closing.signal.aborted) return;
    reportFault(this.#o.partition, "eviction failed", error);
  }
}

function byAge(a: Candidate, b: Candidate): number {
  if (a.lastUsedAt !== b.lastUsedAt) return a.lastUsedAt - b.lastUsedAt;
  return a.digest < b.digest ? -1 : Number(a.digest > b.digest);
}

/** A registry with more repositories that claim one blob is taken for one that needs it. */
const linksLooked = 1000;

/** Who counts on a blob of a storage, as far as a cache that would evict it has to know. */
export class SharedBlobs {
  readonly #in: Pick<Partition, "name" | "metadata" | "clock">;

  constructor(partition: Pick<Partition, "name" | "metadata" | "clock">) {
    this.#in = partition;
  }

  /** A cache's links lead to its source again, and the blob counts no more. */
  async gone(cache: string, digest: Digest, size: number): Promise<Change[]> {
    const { metadata, clock } = this.#in;
    const repositories = await metadata.names({ kind: "linkByDigest", under: [digest, cache], limit: 100_000 });
    const links = repositories.map((repository) => ({
      put: recordKey.link(cache, repository, digest),
      value: { size, linkedAt: clock.now(), origin: { member: sourceMember, repository } },
    }));
    return [...links, { remove: recordKey.cachedBlob(cache, digest) }];
  }

  /**
   * Who linked a blob while the cache gave it up found it counted, and has not counted it: these links lead to the source too, unless the cache has it again. Else
   * they would keep the bytes for ever, in nobody's account.
   */
  async leadBack(digest: Digest): Promise<void> {
    const { name, metadata, clock } = this.#in;
    for await (const page of recordPages(metadata, "linkByDigest", [digest, name])) {
      for (const { key: found } of page) {
        const repository = found.parts[2] ?? "";
        const key = recordKey.link(name, repository, digest);
        const link = await metadata.get(key);
        if (!link || link.value.origin) continue;
        const origin = { member: sourceMember, repository };
        await metadata.commit(
          [
            { key, is: "version", version: link.version },
            { key: recordKey.cachedBlob(name, digest), is: "absent" },
          ],
          [{ put: key, value: { size: link.value.size, linkedAt: clock.now(), origin } }],
        );
      }
    }
  }

  async wasUsedSince(cache: string, digest: Digest, time: number): Promise<boolean> {
    const entry = await this.#in.metadata.get(recordKey.cachedBlob(cache, digest));
    return entry !== undefined && entry.value.lastUsedAt > time;
  }

  /** The other caches that have it; `undefined` when another registry has a claim, to the bytes or by way of a cache. */
  async ofOtherCaches(digest: Digest): Promise<string[] | undefined> {
    const { name, metadata } = this.#in;
    const caches: string[] = [];
    for await (const registry of registriesReferringTo(metadata, digest)) {
      if (registry === name) continue;
      if (await metadata.get(recordKey.cachedBlob(registry, digest))) caches.push(registry);
      else if (!(await this.#leadToItsSource(registry, digest))) return undefined;
    }
    return caches;
  }

  /** Whether all links of a registry are those of a cache that does not have the bytes, or not any more. */
  async #leadToItsSource(registry: string, digest: Digest): Promise<boolean> {
    const { metadata } = this.#in;
    // Not by their names, which may lag behind another process.
    const links = await metadata.page({ kind: "linkByDigest", under: [digest, registry], limit: linksLooked + 1 });
    if (links.length > linksLooked) return false;
    for (const { key } of links) {
      const link = await metadata.get(recordKey.link(registry, key.parts[2] ?? "", digest));
      if (link && link.value.origin?.member !== sourceMember) return false;
    }
    return true;
  }
}

/** Registries and caches of a storage that have a link to a blob. */
export async function* registriesReferringTo(metadata: MetadataStore, digest: Digest): AsyncGenerator<string> {
  let after: string | undefined;
  do {
    // One link of each registry, since `after` is a registry here.
    const [item] = await metadata.page({ kind: "linkByDigest", under: [digest], limit: 1, ...(after !== undefined && { after }) });
    after = item?.key.parts[1];
    if (after !== undefined) yield after;
  } while (after !== undefined);
}
