import pLimit, { type LimitFunction } from "p-limit";
import { addedUnlessGone } from "../../core/added-unless-gone.js";
import { withheldTail } from "../../core/content.js";
import type { Descriptor } from "../../core/descriptor.js";
import { type Digest, parseDigest } from "../../core/digest.js";
import { RegistryError } from "../../core/errors.js";
import { evictFor } from "../../core/eviction.js";
import { absent, found, type Lookup, type Served } from "../../core/lookup.js";
import { mediaTypes } from "../../core/media-types.js";
import { resolveRange } from "../../core/range.js";
import type { BlobContent, CallOptions, GetBlobOptions, Registry } from "../../core/registry.js";
import type { StoringRegistry } from "../../core/storing-registry.js";
import { untilAborted } from "../../core/until-aborted.js";
import { isLoop } from "../../core/via.js";
import type { BlobIntake } from "../../local/blob-bytes.js";
import type { Partition } from "../../local/partition.js";
import type { CacheEviction } from "../eviction.js";
import { backgroundPriority, knownHops, mayBeNoLoopFor, sourceCall, type ViaOptions, viaOf } from "../source-call.js";
import { Fill } from "./fill.js";
import { FillLease, waitForLease } from "./lease.js";
import { type FillReaderOptions, fillReader } from "./reader.js";
import type { TransferSource } from "./transfer.js";

interface FillsOptions extends Omit<RunningFillsOptions, "isWanted"> {
  /** How many blobs are brought in the background at a time. */
  readonly concurrency: number;
  readonly unverifiedRanges: boolean;
}

/** A blob that was found and is gone again when it is opened was evicted in between. So often in a row it is not that. */
const attempts = 3;

/** What a caller gets: the blob from the store, or from its fill; or, `past` the store, what the source gives to this caller alone. */
type Joined = { readonly past: false; readonly descriptor: Descriptor; readonly fill?: Fill } | { readonly past: true };

/**
 * Brings blobs from the source into the store: one transfer at a time for each blob, however many ask.
 *
 * - {@link RunningFills} has the running fills, one for each digest, and starts and ends them. A fill ({@link Fill}) belongs to no caller.
 * - Callers join a fill where they may see the blob (`#join`). A client then reads the fill (`reader.ts`), or the store once the blob is there. Work in the background
 *   (`bring` and its variants) waits for the outcome, a limited number at a time.
 * - {@link Waiters} counts who waits for a blob without reading it yet. With `onAbandoned: "stop"` a fill is stopped when it has neither waiters nor readers.
 * - A fill takes its bytes from {@link transferSources}: the cache's own source, whose answer also says who may see the blob, then the other way that the first caller
 *   brought along.
 */
export class Fills {
  readonly #o: FillsOptions;
  readonly #waiters = new Waiters();
  readonly #running: RunningFills;
  readonly #background: LimitFunction;
  /** Aborts when nothing more is started. */
  readonly #stopping = new AbortController();
  /** Aborts when running fills and readers are broken off. */
  readonly #closing = new AbortController();

  constructor(options: FillsOptions) {
    this.#o = options;
    this.#running = new RunningFills({ ...options, isWanted: (digest) => this.#waiters.has(digest) });
    this.#background = pLimit(options.concurrency);
  }

  /** The blob as it arrives. Only for blobs that the store does not have. */
  async get(repository: string, text: string, o?: GetBlobOptions): Promise<Lookup<BlobContent>> {
    const digest = parseDigest(text);
    const end = this.#waiters.begin(digest);
    try {
      for (let tries = 1; ; tries++) {
        const joined = await untilAborted(
          this.#join(repository, digest, o, (running) => isSafeFor(running, o)),
          o?.signal,
        );
        if (joined.kind !== "found") return joined;
        if (joined.value.past) return this.#through(repository, digest, o);
        const { fill, descriptor } = joined.value;
        if (fill) return await this.#following(fill, repository, descriptor, joined.served, o);
        const stored = await this.#o.store.getBlob(repository, digest, o);
        if (stored.kind === "found" || tries === attempts) return stored.kind === "linked" ? absent : stored;
      }
    } finally {
      end();
      if (o?.signal?.aborted) this.#running.abandoned(digest);
    }
  }

  async #following(
    fill: Fill,
    repository: string,
    descriptor: Descriptor,
    served: Served,
    o: GetBlobOptions | undefined,
  ): Promise<Lookup<BlobContent>> {
    const { digest } = fill;
    if (descriptor.size <= withheldTail) {
      const failure = await untilAborted(this.#ended(fill, repository, descriptor), o?.signal);
      if (failure) return { kind: "unavailable", error: failure };
      return fill.phase === "stored" ? this.#stored(repository, digest, o) : this.#through(repository, digest, o);
    }
    if (fill.phase === "overflowed" && fill.readers === 0) return this.#through(repository, digest, o);
    const range = o?.range && resolveRange(o.range, descriptor.size);
    const { start, end } = range ?? { start: 0, end: descriptor.size - 1 };
    const following: FillReaderOptions = {
      start,
      end,
      size: descriptor.size,
      unverified: this.#o.unverifiedRanges,
      clock: this.#o.partition.clock,
      closing: this.#closing.signal,
      sources: transferSources(this.#o.source, { repository, digest, size: descriptor.size }, this.#o.call, o),
      stored: (part) => this.#chunks(fill, part),
      left: () => this.#running.abandoned(digest),
    };
    return found({ descriptor, content: { kind: "stream", open: () => fillReader(fill, following) }, ...(range && { range }) }, served);
  }

  /** Past the store, which is full or is not to keep the blob. The source verifies the blob, and gives the whole of it, since a part cannot be verified. */
  async #through(repository: string, digest: Digest, o: GetBlobOptions | undefined): Promise<Lookup<BlobContent>> {
    const { range: _, caller: __, ...call } = o ?? {};
    return this.#o.source.getBlob(repository, digest, { ...call, ...this.#o.call, verify: true });
  }

  /** How many fills run, and how much waits in the background. */
  get load(): { readonly running: number; readonly queued: number } {
    return { running: this.#running.size, queued: this.#background.pendingCount };
  }

  /**
   * Waits until the store has the blob, if it is to be kept. `by another node`: another node still fills it after half a minute.
   * @throws RegistryError when the source cannot give it.
   */
  async bring(repository: string, digest: Digest, o?: ViaOptions): Promise<"done" | "by another node"> {
    // Nobody's answer depends on it, so it may wait for any fill.
    const joined = await this.#join(repository, digest, o, () => true);
    if (joined.kind === "denied" || joined.kind === "unavailable") throw joined.error;
    if (joined.kind !== "found") throw new RegistryError("BLOB_UNKNOWN", `the source has no ${digest} in ${repository}`);
    if (joined.value.past) return "done";
    const { fill, descriptor } = joined.value;
    const failure = fill && (await this.#ended(fill, repository, descriptor));
    if (failure) throw failure;
    return fill?.byAnotherNode ? "by another node" : "done";
  }

  /** As `bring`, behind everything that clients wait for. */
  bringLater(repository: string, digest: Digest, o?: ViaOptions): Promise<void> {
    return this.#background(async () => {
      if (!this.#closed) await this.#brought(repository, digest, o);
    });
  }

  /** As `bringLater`, for someone who waits. @throws also the signal's reason. */
  bringSoon(repository: string, digest: Digest, o: Pick<CallOptions, "signal"> & ViaOptions): Promise<void> {
    const { signal } = o;
    return untilAborted(
      this.#background(async () => {
        signal?.throwIfAborted();
        for (let outcome = "by another node"; outcome === "by another node" && !signal?.aborted; ) {
          if (this.#closed) throw closing();
          outcome = await this.#brought(repository, digest, o);
        }
      }),
      signal,
    );
  }

  /** Other work in the background, which ends with the signal; it must not reject. */
  later(work: (signal: AbortSignal) => Promise<void>): void {
    void this.#background(async () => {
      if (!this.#closed) await work(this.#stopping.signal);
    });
  }

  get #closed(): boolean {
    return this.#stopping.signal.aborted;
  }

  async #brought(repository: string, digest: Digest, o: ViaOptions | undefined): Promise<"done" | "by another node"> {
    if ((await this.#o.store.resolveBlob(repository, digest, backgroundPriority)).kind === "found") return "done";
    return this.bring(repository, digest, o).finally(this.#waiters.begin(digest));
  }

  /** Starts nothing more, waits for running fills until the deadline (in milliseconds), then breaks them off. */
  async close(deadline: number): Promise<void> {
    this.#stopping.abort(closing());
    this.#running.stopWaiting(closing());
    await Promise.race([this.#running.ended(), this.#o.partition.clock.sleep(deadline)]);
    this.#closing.abort(closing());
    this.#running.stop(closing());
    await this.#running.ended();
  }

  /**
   * A caller joins a fill, or finds bytes that came for others, only where the source has shown that the repository may see the digest. A manifest shows nothing: anyone
   * can write a digest into one. What the source merely states shows it only where the size is that of the bytes. Else a GET of the caller's own decides, past the store.
   * @param mayAwait whether the caller may wait for a fill that it did not start.
   */
  async #join(
    repository: string,
    digest: Digest,
    o: GetBlobOptions | undefined,
    mayAwait: (running: Fill) => boolean,
  ): Promise<Lookup<Joined>> {
    const { store, source } = this.#o;
    const here = await store.resolveBlob(repository, digest, backgroundPriority);
    if (here.kind === "found") return found({ past: false, descriptor: here.value }, here.served);
    let shown: Descriptor | undefined;
    while (!this.#closed) {
      const held = await store.holdsBlob(digest);
      const running = this.#running.get(digest);
      if (shown && held && shown.size !== held.size) return found({ past: true }, this.#o.partition.served);
      if (shown && held) {
        if (!(await addedUnlessGone(store, repository, held))) continue;
        await this.#o.eviction.share(digest, held.size);
        return found({ past: false, descriptor: held }, this.#o.partition.served);
      }
      if (running && !mayAwait(running)) return found({ past: true }, this.#o.partition.served);
      const mine = shown !== undefined || running?.repositories.has(repository) === true;
      if (!mine && (held || running)) {
        const answer = await source.resolveBlob(repository, digest, { ...sourceCall(this.#o.call, o), signal: this.#closing.signal });
        if (answer.kind !== "found") return answer;
        shown = answer.value;
        continue;
      }
      if (this.#closed) break;
      const size = here.kind === "linked" ? here.descriptor.size : undefined;
      // Too large to be kept: the call that passes it on asks the source.
      if (size !== undefined && !running && size > this.#o.maxBlobBytes) return found({ past: true }, this.#o.partition.served);
      const fill = running ?? this.#running.start({ repository, digest, size }, o);
      if (!shown) fill.repositories.add(repository);
      const answer = await fill.started;
      if (shown && answer.kind === "found" && answer.value.size !== shown.size) return found({ past: true }, this.#o.partition.served);
      fill.repositories.add(repository);
      if (answer.kind === "found") return found({ past: false, fill, descriptor: answer.value }, answer.served);
      // The source's refusal speaks of the fill's repository, and a loop of the aggregates that its question has passed. A caller of another one asks for itself.
      const isAnothersLoop = answer.kind === "unavailable" && isLoop(answer.error) && mayBeNoLoopFor(o, fill.passed);
      if (fill.repository === repository && !isAnothersLoop) return answer;
      await fill.ended;
    }
    return { kind: "unavailable", error: closing() };
  }

  /** The outcome of a fill. When the blob is stored, the repository has its blob reference, even one that joined while the store took the blob over. */
  async #ended(fill: Fill, repository: string, descriptor: Descriptor): Promise<RegistryError | undefined> {
    const failure = await fill.ended;
    const { store } = this.#o;
    if (fill.phase === "stored" && (await store.resolveBlob(repository, fill.digest, backgroundPriority)).kind !== "found")
      await addedUnlessGone(store, repository, descriptor);
    return failure;
  }

  async #stored(repository: string, digest: Digest, o?: GetBlobOptions): Promise<Lookup<BlobContent>> {
    const lookup = await this.#o.store.getBlob(repository, digest, o);
    return lookup.kind === "linked" ? absent : lookup;
  }

  async #chunks(fill: Fill, range: { start: number; end: number }): Promise<AsyncIterable<Uint8Array>> {
    for (const repository of fill.repositories) {
      const lookup = await this.#stored(repository, fill.digest, { range });
      if (lookup.kind === "found" && lookup.value.content.kind === "stream") return lookup.value.content.open();
    }
    throw new RegistryError("UNAVAILABLE", `${fill.digest} was stored and is gone again; ask again`);
  }
}

/**
 * Whether a caller may wait for this fill. Until the source gives the blob, a fill waits for those whom its question reaches, and these questions have passed more
 * aggregates than the fill's own. So a question that has passed more never waits for a fill that has passed fewer: it would wait for itself, or two fills for each other.
 * It goes past the fill, and finds the loop.
 */
function isSafeFor({ served, passed }: Fill, o: ViaOptions | undefined): boolean {
  return served !== undefined || knownHops(o) <= knownHops(passed);
}

function closing(): RegistryError {
  return new RegistryError("UNAVAILABLE", "the registry is closing", { retryAfter: 1 });
}

interface RunningFillsOptions {
  readonly source: Registry;
  readonly store: StoringRegistry;
  readonly intake: BlobIntake;
  readonly partition: Partition;
  readonly eviction: CacheEviction;
  /** Larger blobs are passed through. */
  readonly maxBlobBytes: number;
  readonly onAbandoned: "finish" | "stop";
  /** Given to the source with every question. */
  readonly call: CallOptions;
  /** Whether someone waits for the blob who is no reader of its fill. */
  isWanted(digest: Digest): boolean;
}

/** Milliseconds that a fill without readers goes on where it is to be stopped. */
const abandonedFor = 1000;

/** The running fills, one for each blob, and what becomes of them. */
class RunningFills {
  readonly #o: RunningFillsOptions;
  readonly #running = new Map<Digest, { fill: Fill; stopping: AbortController }>();
  /** Why no fill waits for another node any more. */
  #endOfWaiting: RegistryError | undefined;

  constructor(options: RunningFillsOptions) {
    this.#o = options;
  }

  get size(): number {
    return this.#running.size;
  }

  get(digest: Digest): Fill | undefined {
    return this.#running.get(digest)?.fill;
  }

  /** Resolves when those that run now have ended. */
  async ended(): Promise<void> {
    await Promise.all([...this.#running.values()].map(({ fill }) => fill.ended));
  }

  stop(reason: RegistryError): void {
    for (const { stopping } of this.#running.values()) stopping.abort(reason);
  }

  /** Stops the fills that wait for another node, also those that begin to: the other node may take longer than this one lives. */
  stopWaiting(reason: RegistryError): void {
    this.#endOfWaiting = reason;
    for (const { fill, stopping } of this.#running.values()) if (fill.phase === "waiting") stopping.abort(reason);
  }

  start(wanted: WantedBlob, o: GetBlobOptions | undefined): Fill {
    const { repository, digest } = wanted;
    const { source, store, intake, partition, eviction, call } = this.#o;
    const stopping = new AbortController();
    const { signal } = stopping;
    const lease = new FillLease(partition, digest, knownHops(o));
    const fill: Fill = new Fill({
      repository,
      digest,
      blobs: partition.blobs,
      clock: partition.clock,
      signal,
      lease,
      awaitLease: (waiting) =>
        waitForLease({
          lease,
          clock: partition.clock,
          signal,
          shown: async () => {
            const here = await store.resolveBlob(repository, digest, backgroundPriority);
            if (here.kind === "found") return here;
            return untilAborted(source.resolveBlob(repository, digest, { ...sourceCall(call, o), signal }), signal);
          },
          refer: (shown) => this.#referToStored(fill, shown),
          unknown: found({ mediaType: mediaTypes.octetStream, digest, size: 0 }, partition.served),
          waiting: () => {
            waiting();
            if (this.#endOfWaiting) stopping.abort(this.#endOfWaiting);
          },
        }),
      sources: transferSources(source, wanted, call, o),
      passed: viaOf(o),
      keeps: (bytes) => bytes <= this.#o.maxBlobBytes,
      evict: (bytes) => evictFor(partition.blobs, bytes),
      adopt: async (staged) => {
        const descriptor = await intake.adopt(repository, digest, staged, {
          hashed: true,
          more: [eviction.entry(digest, staged.size), lease.removal],
        });
        for (const other of fill.repositories) if (other !== repository) await addedUnlessGone(store, other, descriptor);
        eviction.added(descriptor.size);
      },
      abandon: (staged) => intake.abandon(digest, staged),
      discarded: (error) => this.#tell(fill, error),
    });
    this.#running.set(digest, { fill, stopping });
    void fill.ended.then((error) => {
      this.#running.delete(digest);
      const unstored = fill.phase === "overflowed" ? overflowed() : undefined;
      if (fill.served !== undefined) this.#tell(fill, error ?? unstored);
    });
    return fill;
  }

  /**
   * Lets all repositories for which the source has shown the blob refer to what another node has stored. False when it is gone again, `undefined` when it has another
   * size than the source states: a source that says yes to everything has shown nothing.
   */
  async #referToStored({ digest, repositories }: Fill, shown: Descriptor): Promise<boolean | undefined> {
    const { store, eviction } = this.#o;
    const held = await store.holdsBlob(digest);
    if (!held) return false;
    if (held.size !== shown.size) return undefined;
    for (const repository of repositories) {
      if ((await store.resolveBlob(repository, digest, backgroundPriority)).kind === "found") continue;
      if (!(await addedUnlessGone(store, repository, held))) return false;
    }
    await eviction.share(digest, held.size);
    return true;
  }

  /** A caller who asked for the blob has left. */
  abandoned(digest: Digest): void {
    const running = this.#running.get(digest);
    if (this.#o.onAbandoned === "finish" || !running) return;
    const { clock } = this.#o.partition;
    // A client that reconnects, or asks for its next range, is there again at once.
    void clock.sleep(abandonedFor).then(() => {
      if (running.fill.readers === 0 && !this.#o.isWanted(digest))
        running.stopping.abort(new RegistryError("UNAVAILABLE", "nobody waits for it"));
    });
  }

  #tell(fill: Fill, error: RegistryError | undefined): void {
    const { clock, events, name } = this.#o.partition;
    events.emit("fill", {
      time: clock.now(),
      registry: name,
      repository: fill.repository,
      digest: fill.digest,
      bytes: fill.received,
      ...(error && { error: error.message }),
    });
  }
}

function overflowed(): RegistryError {
  return new RegistryError("INSUFFICIENT_STORAGE", "it was passed on and not stored: it is too large, or the storage is full");
}

/** How many wait for a blob without reading it yet: clients that have no answer so far, and work in the background. */
class Waiters {
  readonly #waiting = new Map<Digest, number>();

  /** Counts one more, until the answer is called. */
  begin(digest: Digest): () => void {
    this.#add(digest, 1);
    return () => this.#add(digest, -1);
  }

  has(digest: Digest): boolean {
    return this.#waiting.has(digest);
  }

  #add(digest: Digest, more: number): void {
    const waiting = (this.#waiting.get(digest) ?? 0) + more;
    if (waiting > 0) this.#waiting.set(digest, waiting);
    else this.#waiting.delete(digest);
  }
}

/** The blob as the cache knows it. */
interface WantedBlob {
  readonly repository: string;
  readonly digest: Digest;
  /** Absent: no manifest says it. */
  readonly size: number | undefined;
}

/** The cache's own source, whose answer says who may see the blob, then the other way that the caller brought along. */
function transferSources(
  source: Registry,
  { repository, digest, size }: WantedBlob,
  call: CallOptions,
  caller: GetBlobOptions | undefined,
): TransferSource[] {
  const { otherwise } = caller ?? {};
  // Not verified there: the bytes are hashed on the way into the store.
  const o = { ...viaOf(caller), verify: false, unsized: true, ...(size !== undefined && { size }) };
  const own: TransferSource = {
    // The call is read at each question: its caller is whoever asked last.
    ask: (range, signal) => untilAborted(source.getBlob(repository, digest, { ...call, ...o, signal, ...(range && { range }) }), signal),
  };
  return otherwise ? [own, { ask: (range, signal) => untilAborted(otherwise(range, { signal }), signal) }] : [own];
}
