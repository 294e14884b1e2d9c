import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { linkedUnlessGone } from "../core/linked-unless-gone.js";
import type { LinkingRegistry } from "../core/linking-registry.js";
import { found } from "../core/lookup.js";
import { mediaTypes } from "../core/media-types.js";
import type { CallOptions, GetBlobOptions, Registry } from "../core/registry.js";
import { makeRoom } from "../core/room.js";
import { untilAborted } from "../core/until-aborted.js";
import type { BlobIntake } from "../local/blob-intake.js";
import type { Partition } from "../local/partition.js";
import { asking, hopsOf, look, passedOf } from "./asking.js";
import { Fill } from "./fill.js";
import { FillLease } from "./fill-lease.js";
import { turnToFill } from "./fill-turn.js";
import { sourcesOf, type Wanted } from "./sources.js";
import type { CacheSpace } from "./space.js";

export interface RunningFillsOptions {
  readonly source: Registry;
  readonly store: LinkingRegistry;
  readonly intake: BlobIntake;
  readonly partition: Partition;
  readonly space: CacheSpace;
  /** Larger blobs are passed through. */
  readonly maxBlobBytes: number;
  readonly onAbandoned: "finish" | "stop";
  /** Given to the source with every question. */
  readonly call: CallOptions;
  /** Whether someone waits for it who is no reader of its fill. */
  isWanted(digest: Digest): boolean;
}

/** Milliseconds that a fill without readers goes on where it is to be stopped. */
const abandonedFor = 1000;

/** The fills that run, one for each blob, and what becomes of them. */
export class RunningFills {
  readonly #o: RunningFillsOptions;
  readonly #running = new Map<Digest, { fill: Fill; stopping: AbortController }>();
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

  /** For good, those that wait for another node: it may take longer than this one lives. */
  stopWaiting(reason: RegistryError): void {
    this.#endOfWaiting = reason;
    for (const { fill, stopping } of this.#running.values()) if (fill.phase === "waiting") stopping.abort(reason);
  }

  start(wanted: Wanted, o: GetBlobOptions | undefined): Fill {
    const { repository, digest } = wanted;
    const { source, store, intake, partition, space, call } = this.#o;
    const stopping = new AbortController();
    const { signal } = stopping;
    const lease = new FillLease(partition, digest, hopsOf(o));
    const fill: Fill = new Fill({
      repository,
      digest,
      blobs: partition.blobs,
      clock: partition.clock,
      signal,
      lease,
      turn: (waiting) =>
        turnToFill({
          lease,
          clock: partition.clock,
          signal,
          shown: async () => {
            const here = await store.resolveBlob(repository, digest, look);
            if (here.kind === "found") return here;
            return untilAborted(source.resolveBlob(repository, digest, { ...asking(call, o), signal }), signal);
          },
          link: (shown) => this.#broughtByOthers(fill, shown),
          unknown: found({ mediaType: mediaTypes.octetStream, digest, size: 0 }, partition.served),
          waiting: () => {
            waiting();
            if (this.#endOfWaiting) stopping.abort(this.#endOfWaiting);
          },
        }),
      sources: sourcesOf(source, wanted, call, o),
      passed: passedOf(o),
      keeps: (bytes) => bytes <= this.#o.maxBlobBytes,
      makeRoom: (bytes) => makeRoom(partition.blobs, bytes),
      adopt: async (staged) => {
        const descriptor = await intake.adopt(repository, digest, staged, {
          hashed: true,
          more: [space.entry(digest, staged.size), lease.removal],
        });
        for (const other of fill.repositories) if (other !== repository) await linkedUnlessGone(store, other, descriptor);
        space.added(descriptor.size);
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
   * Gives what another node has stored to all repositories for which the source has shown it. False when it is gone again, `undefined` when it has another size than
   * the source states: a source that says yes to everything has shown nothing.
   */
  async #broughtByOthers({ digest, repositories }: Fill, shown: Descriptor): Promise<boolean | undefined> {
    const { store, space } = this.#o;
    const held = await store.holdsBlob(digest);
    if (!held) return false;
    if (held.size !== shown.size) return undefined;
    for (const repository of repositories) {
      if ((await store.resolveBlob(repository, digest, look)).kind === "found") continue;
      if (!(await linkedUnlessGone(store, repository, held))) return false;
    }
    await space.claimed(digest, held.size);
    return true;
  }

  /** Someone who asked for it is gone. */
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
