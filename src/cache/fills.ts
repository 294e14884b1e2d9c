import pLimit, { type LimitFunction } from "p-limit";
import { heldBack } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { linkedUnlessGone } from "../core/linked-unless-gone.js";
import { absent, found, type Lookup, type Served } from "../core/lookup.js";
import { resolveRange } from "../core/range.js";
import type { BlobContent, CallOptions, GetBlobOptions } from "../core/registry.js";
import { untilAborted } from "../core/until-aborted.js";
import { isLoop } from "../core/via.js";
import { asking, hopsOf, look, mayBeNoLoopFor, type Passed } from "./asking.js";
import type { Fill } from "./fill.js";
import { type FollowOptions, follow } from "./follow.js";
import { Interest } from "./interest.js";
import { RunningFills, type RunningFillsOptions } from "./running-fills.js";
import { sourcesOf } from "./sources.js";

export interface FillsOptions extends Omit<RunningFillsOptions, "isWanted"> {
  readonly concurrency: number;
  readonly unverifiedRanges: boolean;
}

/** What was found and is gone again when it is opened was evicted in between; so often in a row it is not that. */
const attempts = 3;

/** What a caller may see: stored or on its way, or past the store. */
type Joined = { readonly past: false; readonly descriptor: Descriptor; readonly fill?: Fill } | { readonly past: true };

/** Brings blobs from the source into the store: one transfer at a time for each, however many ask. */
export class Fills {
  readonly #o: FillsOptions;
  readonly #interest = new Interest();
  readonly #running: RunningFills;
  readonly #background: LimitFunction;
  /** Aborts when nothing new is begun any more. */
  readonly #stopping = new AbortController();
  /** Aborts when what runs is broken off. */
  readonly #closing = new AbortController();

  constructor(options: FillsOptions) {
    this.#o = options;
    this.#running = new RunningFills({ ...options, isWanted: (digest) => this.#interest.has(digest) });
    this.#background = pLimit(options.concurrency);
  }

  /** What the source has under this digest in this repository, as it arrives. Only for blobs that the store does not have. */
  async get(repository: string, text: string, o?: GetBlobOptions): Promise<Lookup<BlobContent>> {
    const digest = parseDigest(text);
    const end = this.#interest.begin(digest);
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
    if (descriptor.size <= heldBack) {
      const failure = await untilAborted(this.#ended(fill, repository, descriptor), o?.signal);
      if (failure) return { kind: "unavailable", error: failure };
      return fill.phase === "stored" ? this.#stored(repository, digest, o) : this.#through(repository, digest, o);
    }
    if (fill.phase === "overflowed" && fill.readers === 0) return this.#through(repository, digest, o);
    const range = o?.range && resolveRange(o.range, descriptor.size);
    const { start, end } = range ?? { start: 0, end: descriptor.size - 1 };
    const following: FollowOptions = {
      start,
      end,
      size: descriptor.size,
      unverified: this.#o.unverifiedRanges,
      clock: this.#o.partition.clock,
      closing: this.#closing.signal,
      sources: sourcesOf(this.#o.source, { repository, digest, size: descriptor.size }, this.#o.call, o),
      stored: (part) => this.#chunks(fill, part),
      left: () => this.#running.abandoned(digest),
    };
    return found({ descriptor, content: { kind: "stream", open: () => follow(fill, following) }, ...(range && { range }) }, served);
  }

  /** Past the store, which has no room or is not to keep it: verified by whoever gives it, and the whole, since a part cannot be verified. */
  async #through(repository: string, digest: Digest, o: GetBlobOptions | undefined): Promise<Lookup<BlobContent>> {
    const { range: _, caller: __, ...call } = o ?? {};
    return this.#o.source.getBlob(repository, digest, { ...call, ...this.#o.call, verify: true });
  }

  /** Fills that run, and what waits in the background. */
  get load(): { readonly running: number; readonly queued: number } {
    return { running: this.#running.size, queued: this.#background.pendingCount };
  }

  /**
   * Waits until the store has the blob, if it is to be kept, or for half a minute while another node brings it: `elsewhere`.
   * @throws RegistryError when the source cannot give it.
   */
  async bring(repository: string, digest: Digest, o?: Passed): Promise<"done" | "elsewhere"> {
    // Nobody's answer depends on it, so it may wait for any fill.
    const joined = await this.#join(repository, digest, o, () => true);
    if (joined.kind === "denied" || joined.kind === "unavailable") throw joined.error;
    if (joined.kind !== "found") throw new RegistryError("BLOB_UNKNOWN", `the source has no ${digest} in ${repository}`);
    if (joined.value.past) return "done";
    const { fill, descriptor } = joined.value;
    const failure = fill && (await this.#ended(fill, repository, descriptor));
    if (failure) throw failure;
    return fill?.elsewhere ? "elsewhere" : "done";
  }

  /** As `bring`, behind everything that clients wait for. */
  bringLater(repository: string, digest: Digest, o?: Passed): Promise<void> {
    return this.#background(async () => {
      if (!this.#closed) await this.#brought(repository, digest, o);
    });
  }

  /** As `bringLater`, for someone who waits. @throws also the signal's reason. */
  bringSoon(repository: string, digest: Digest, o: Pick<CallOptions, "signal"> & Passed): Promise<void> {
    const { signal } = o;
    return untilAborted(
      this.#background(async () => {
        signal?.throwIfAborted();
        for (let outcome = "elsewhere"; outcome === "elsewhere" && !signal?.aborted; ) {
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

  async #brought(repository: string, digest: Digest, o: Passed | undefined): Promise<"done" | "elsewhere"> {
    if ((await this.#o.store.resolveBlob(repository, digest, look)).kind === "found") return "done";
    return this.bring(repository, digest, o).finally(this.#interest.begin(digest));
  }

  /** Starts nothing more, waits for running fills until the deadline (milliseconds), then breaks them off. */
  async close(deadline: number): Promise<void> {
    this.#stopping.abort(closing());
    this.#running.stopWaiting(closing());
    await Promise.race([this.#running.ended(), this.#o.partition.clock.sleep(deadline)]);
    this.#closing.abort(closing());
    this.#running.stop(closing());
    await this.#running.ended();
  }

  /**
   * A caller joins a fill, or finds bytes that came for others, only where the source has shown that the repository may see the digest. What a manifest
   * claims shows nothing: anyone can write a digest into a manifest. What the source merely states shows it only where the size is that of the bytes: else a GET of
   * the caller's own decides, past the store.
   * @param mayAwait whether the caller may wait for a fill that it did not start.
   */
  async #join(
    repository: string,
    digest: Digest,
    o: GetBlobOptions | undefined,
    mayAwait: (running: Fill) => boolean,
  ): Promise<Lookup<Joined>> {
    const { store, source } = this.#o;
    const here = await store.resolveBlob(repository, digest, look);
    if (here.kind === "found") return found({ past: false, descriptor: here.value }, here.served);
    let shown: Descriptor | undefined;
    while (!this.#closed) {
      const held = await store.holdsBlob(digest);
      const running = this.#running.get(digest);
      if (shown && held && shown.size !== held.size) return found({ past: true }, this.#o.partition.served);
      if (shown && held) {
        if (!(await linkedUnlessGone(store, repository, held))) continue;
        await this.#o.space.claimed(digest, held.size);
        return found({ past: false, descriptor: held }, this.#o.partition.served);
      }
      if (running && !mayAwait(running)) return found({ past: true }, this.#o.partition.served);
      const mine = shown !== undefined || running?.repositories.has(repository) === true;
      if (!mine && (held || running)) {
        const answer = await source.resolveBlob(repository, digest, { ...asking(this.#o.call, o), signal: this.#closing.signal });
        if (answer.kind !== "found") return answer;
        shown = answer.value;
        continue;
      }
      if (this.#closed) break;
      const size = here.kind === "linked" ? here.descriptor.size : undefined;
      // The source is then asked by whoever passes it on.
      if (size !== undefined && !running && size > this.#o.maxBlobBytes) return found({ past: true }, this.#o.partition.served);
      const fill = running ?? this.#running.start({ repository, digest, size }, o);
      if (!shown) fill.repositories.add(repository);
      const answer = await fill.started;
      if (shown && answer.kind === "found" && answer.value.size !== shown.size) return found({ past: true }, this.#o.partition.served);
      fill.repositories.add(repository);
      if (answer.kind === "found") return found({ past: false, fill, descriptor: answer.value }, answer.served);
      // The source's refusal speaks of the repository it was asked for, and a loop of the way; whoever joined from elsewhere asks for itself.
      const isTheirs = answer.kind === "unavailable" && isLoop(answer.error) && mayBeNoLoopFor(o, fill.passed);
      if (fill.repository === repository && !isTheirs) return answer;
      await fill.ended;
    }
    return { kind: "unavailable", error: closing() };
  }

  /** The outcome of a fill; when it is whole, the repository has its link, even one that joined while the store took over. */
  async #ended(fill: Fill, repository: string, descriptor: Descriptor): Promise<RegistryError | undefined> {
    const failure = await fill.ended;
    const { store } = this.#o;
    if (fill.phase === "stored" && (await store.resolveBlob(repository, fill.digest, look)).kind !== "found")
      await linkedUnlessGone(store, repository, descriptor);
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
 * Before the source gives it, a fill waits for whom its question reaches, and those have come a longer way than the question. So the longer never wait for
 * the shorter: they would be waiting for themselves, or two fills for each other. Those who ask past the fill find the loop.
 */
function isSafeFor({ served, passed }: Fill, o: Passed | undefined): boolean {
  return served !== undefined || hopsOf(o) <= hopsOf(passed);
}

function closing(): RegistryError {
  return new RegistryError("UNAVAILABLE", "the registry is closing", { retryAfter: 1 });
}
