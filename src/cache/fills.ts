import pLimit, { type LimitFunction } from "p-limit";
import { heldBack } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { absent, found, type Lookup } from "../core/lookup.js";
import { resolveRange } from "../core/range.js";
import type { BlobContent, CallOptions, GetBlobOptions, LinkingRegistry, Registry } from "../core/registry.js";
import { makeRoom } from "../core/room.js";
import { untilAborted } from "../core/until-aborted.js";
import type { LocalBlobs } from "../local/blobs.js";
import type { Partition } from "../local/partition.js";
import { Fill } from "./fill.js";
import { type FollowOptions, follow } from "./follow.js";
import type { CacheSpace } from "./space.js";
import type { TransferSource } from "./transfer.js";

export interface FillsOptions {
  readonly source: Registry;
  readonly store: LinkingRegistry;
  readonly blobs: LocalBlobs;
  readonly partition: Partition;
  readonly concurrency: number;
  readonly space: CacheSpace;
  /** Larger blobs are passed through. */
  readonly maxBlobBytes: number;
  readonly unverifiedRanges: boolean;
  readonly onAbandoned: "finish" | "stop";
  /** Given to the source with every question. */
  readonly call: CallOptions;
}

/** Milliseconds that a fill without readers goes on where it is to be stopped. */
const abandonedFor = 1000;

/** Brings blobs from the source into the store: one transfer at a time for each, however many ask. */
export class Fills {
  readonly #o: FillsOptions;
  readonly #running = new Map<Digest, { fill: Fill; stopping: AbortController }>();
  /** Brought in the background: no reader's leaving ends these. */
  readonly #wanted = new Set<Digest>();
  readonly #background: LimitFunction;
  readonly #closing = new AbortController();
  #closed = false;

  constructor(options: FillsOptions) {
    this.#o = options;
    this.#background = pLimit(options.concurrency);
  }

  /** What the source has under this digest in this repository, as it arrives. Only for blobs that the store does not have. */
  async get(repository: string, text: string, o?: GetBlobOptions): Promise<Lookup<BlobContent>> {
    const digest = parseDigest(text);
    const joined = await untilAborted(this.#join(repository, digest, o), o?.signal);
    if (joined.kind !== "found") return joined;
    const { fill, descriptor } = joined.value;
    if (!fill) return this.#stored(repository, digest, o);
    const range = o?.range && resolveRange(o.range, descriptor.size);
    if (descriptor.size <= heldBack) {
      const failure = await untilAborted(this.#ended(fill, repository, descriptor), o?.signal);
      if (failure) return { kind: "unavailable", error: failure };
      return fill.phase === "stored" ? this.#stored(repository, digest, o) : this.#through(repository, digest, o);
    }
    if (fill.phase === "overflowed" && fill.readers === 0) return this.#through(repository, digest, o);
    const { start, end } = range ?? { start: 0, end: descriptor.size - 1 };
    const following: FollowOptions = {
      start,
      end,
      size: descriptor.size,
      unverified: this.#o.unverifiedRanges,
      clock: this.#o.partition.clock,
      sources: this.#sourcesOf(repository, digest, descriptor.size, this.#closing.signal, o),
      stored: (part) => this.#chunks(fill, part),
      left: () => this.#abandoned(fill),
    };
    return found({ descriptor, content: { kind: "stream", open: () => follow(fill, following) }, ...(range && { range }) }, joined.served);
  }

  /** Past the store, which has no room or is not to keep it: verified by whoever gives it, and the whole, since a part cannot be verified. */
  async #through(repository: string, digest: Digest, o: GetBlobOptions | undefined): Promise<Lookup<BlobContent>> {
    const { range: _, ...call } = o ?? {};
    return this.#o.source.getBlob(repository, digest, { ...call, verify: true });
  }

  /** Fills that run, and what waits in the background. */
  get load(): { readonly running: number; readonly queued: number } {
    return { running: this.#running.size, queued: this.#background.pendingCount };
  }

  /** Waits until the store has the blob. @throws RegistryError when the source cannot give it. */
  async bring(repository: string, digest: Digest): Promise<void> {
    const joined = await this.#join(repository, digest);
    if (joined.kind === "denied" || joined.kind === "unavailable") throw joined.error;
    if (joined.kind !== "found") throw new RegistryError("BLOB_UNKNOWN", `the source has no ${digest} in ${repository}`);
    const { fill, descriptor } = joined.value;
    const failure = fill && (await this.#ended(fill, repository, descriptor));
    if (failure) throw failure;
  }

  /** As `bring`, behind everything that clients wait for. */
  bringLater(repository: string, digest: Digest): Promise<void> {
    return this.#background(() => this.#brought(repository, digest));
  }

  /** As `bringLater`, for someone who waits. @throws also the signal's reason. */
  bringSoon(repository: string, digest: Digest, signal: AbortSignal | undefined): Promise<void> {
    return untilAborted(
      this.#background(async () => {
        signal?.throwIfAborted();
        await this.#brought(repository, digest);
      }),
      signal,
    );
  }

  /** Other work in the background; it must not reject. */
  later(work: () => Promise<void>): void {
    void this.#background(async () => {
      if (!this.#closed) await work();
    });
  }

  async #brought(repository: string, digest: Digest): Promise<void> {
    if (this.#closed || (await this.#o.store.resolveBlob(repository, digest)).kind === "found") return;
    this.#wanted.add(digest);
    await this.bring(repository, digest).finally(() => this.#wanted.delete(digest));
  }

  /** Starts nothing more, waits for running fills until the deadline (milliseconds), then breaks them off. */
  async close(deadline: number): Promise<void> {
    this.#closed = true;
    this.#background.clearQueue();
    const all = Promise.all([...this.#running.values()].map(({ fill }) => fill.ended));
    await Promise.race([all, this.#o.partition.clock.sleep(deadline)]);
    this.#closing.abort(closing());
    await all;
  }

  /**
   * A caller joins a fill, or finds bytes that came for others, only where the source has shown that the repository may see the digest. What a manifest
   * claims shows nothing: anyone can write a digest into a manifest.
   */
  async #join(repository: string, digest: Digest, o?: GetBlobOptions): Promise<Lookup<{ fill?: Fill; descriptor: Descriptor }>> {
    const { store, source } = this.#o;
    const here = await store.resolveBlob(repository, digest);
    if (here.kind === "found") return found({ descriptor: here.value }, here.served);
    let shown = false;
    while (!this.#closed) {
      const held = await store.holdsBlob(digest);
      const running = this.#running.get(digest)?.fill;
      if (shown && held) {
        await store.linkBlob(repository, held);
        return found({ descriptor: held }, this.#o.partition.served);
      }
      const mine = shown || running?.repositories.has(repository) === true;
      if (!mine && (held || running)) {
        const answer = await source.resolveBlob(repository, digest, { ...this.#o.call, signal: this.#closing.signal });
        if (answer.kind !== "found") return answer;
        shown = true;
        continue;
      }
      const size = here.kind === "linked" ? here.descriptor.size : undefined;
      const fill = running ?? this.#start(repository, digest, size, o);
      fill.repositories.add(repository);
      const answer = await fill.started;
      if (answer.kind === "found") return found({ fill, descriptor: answer.value }, answer.served);
      // The source's refusal speaks of the repository it was asked for; whoever joined from another one asks for itself.
      if (fill.repository === repository) return answer;
      await fill.ended;
    }
    return { kind: "unavailable", error: closing() };
  }

  /** The outcome of a fill; when it is whole, the repository has its link, even one that joined while the store took over. */
  async #ended(fill: Fill, repository: string, descriptor: Descriptor): Promise<RegistryError | undefined> {
    const failure = await fill.ended;
    const { store } = this.#o;
    if (fill.phase === "stored" && (await store.resolveBlob(repository, fill.digest)).kind !== "found")
      await store.linkBlob(repository, descriptor);
    return failure;
  }

  #start(repository: string, digest: Digest, size: number | undefined, o: GetBlobOptions | undefined): Fill {
    const { store, blobs, partition, space } = this.#o;
    const stopping = new AbortController();
    const signal = AbortSignal.any([this.#closing.signal, stopping.signal]);
    const fill = new Fill({
      repository,
      digest,
      blobs: partition.blobs,
      clock: partition.clock,
      signal,
      sources: this.#sourcesOf(repository, digest, size, signal, o),
      keeps: (bytes) => bytes <= this.#o.maxBlobBytes,
      makeRoom: (bytes) => makeRoom(partition.blobs, bytes),
      adopt: async (staged) => {
        const descriptor = await blobs.adopt(repository, digest, staged, { hashed: true, more: [space.entry(digest, staged.size)] });
        for (const other of fill.repositories) if (other !== repository) await store.linkBlob(other, descriptor);
        space.added(descriptor.size);
      },
      discarded: (error) => this.#tell(fill, error),
    });
    this.#running.set(digest, { fill, stopping });
    void fill.ended.then((error) => {
      this.#running.delete(digest);
      if (fill.served !== undefined) this.#tell(fill, error);
    });
    return fill;
  }

  /** The cache's own source, whose answer says who may see the blob, and what the caller has beside it. */
  #sourcesOf(
    repository: string,
    digest: Digest,
    size: number | undefined,
    signal: AbortSignal,
    o: GetBlobOptions | undefined,
  ): TransferSource[] {
    const { source } = this.#o;
    const known = size === undefined ? {} : { size };
    const { otherwise } = o ?? {};
    const own: TransferSource = {
      // Hashed on the way into the store, so not twice.
      ask: (range) =>
        untilAborted(
          source.getBlob(repository, digest, { ...this.#o.call, signal, verify: false, unsized: true, ...known, ...(range && { range }) }),
          signal,
        ),
    };
    return otherwise ? [own, { ask: (range) => untilAborted(otherwise(range, { signal }), signal) }] : [own];
  }

  /** Its last reader is gone. */
  #abandoned(fill: Fill): void {
    const running = this.#running.get(fill.digest);
    if (this.#o.onAbandoned === "finish" || running?.fill !== fill) return;
    const { clock } = this.#o.partition;
    // A client that reconnects, or asks for its next range, is there again at once.
    void clock.sleep(abandonedFor).then(() => {
      if (fill.readers === 0 && !this.#wanted.has(fill.digest))
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

function closing(): RegistryError {
  return new RegistryError("UNAVAILABLE", "the registry is closing", { retryAfter: 1 });
}
