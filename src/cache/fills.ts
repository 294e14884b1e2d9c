import { Readable } from "node:stream";
import pLimit, { type LimitFunction } from "p-limit";
import { heldBack } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { absent, found, type Lookup } from "../core/lookup.js";
import { type ByteRange, resolveRange } from "../core/range.js";
import type { BlobContent, CallOptions, LinkingRegistry, Registry } from "../core/registry.js";
import { untilAborted } from "../core/until-aborted.js";
import type { LocalBlobs } from "../local/blobs.js";
import type { Partition } from "../local/partition.js";
import { Fill } from "./fill.js";

export interface FillsOptions {
  readonly source: Registry;
  readonly store: LinkingRegistry;
  readonly blobs: LocalBlobs;
  readonly partition: Partition;
  readonly concurrency: number;
}

/** Brings blobs from the source into the store: one transfer at a time for each, however many ask. */
export class Fills {
  readonly #o: FillsOptions;
  readonly #running = new Map<Digest, Fill>();
  readonly #background: LimitFunction;
  readonly #closing = new AbortController();
  #closed = false;

  constructor(options: FillsOptions) {
    this.#o = options;
    this.#background = pLimit(options.concurrency);
  }

  /** What the source has under this digest in this repository, as it arrives. Only for blobs that the store does not have. */
  async get(repository: string, text: string, o?: CallOptions & { range?: ByteRange }): Promise<Lookup<BlobContent>> {
    const digest = parseDigest(text);
    const joined = await untilAborted(this.#join(repository, digest), o?.signal);
    if (joined.kind !== "found") return joined;
    const { fill, descriptor } = joined.value;
    if (!fill) return this.#stored(repository, digest, o);
    const range = o?.range && resolveRange(o.range, descriptor.size);
    if (descriptor.size <= heldBack) {
      const failure = await untilAborted(this.#ended(fill, repository, descriptor), o?.signal);
      return failure ? { kind: "unavailable", error: failure } : this.#stored(repository, digest, o);
    }
    const { start, end } = range ?? { start: 0, end: descriptor.size - 1 };
    const open = () =>
      Readable.from(
        fill.follow(start, end, (part) => this.#chunks(fill, part)),
        { objectMode: false, highWaterMark: heldBack },
      );
    return found({ descriptor, content: { kind: "stream", open }, ...(range && { range }) }, joined.served);
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
    return this.#background(async () => {
      if (this.#closed || (await this.#o.store.resolveBlob(repository, digest)).kind === "found") return;
      await this.bring(repository, digest);
    });
  }

  /** Starts nothing more, waits for running fills until the deadline (milliseconds), then breaks them off. */
  async close(deadline: number): Promise<void> {
    this.#closed = true;
    this.#background.clearQueue();
    const all = Promise.all([...this.#running.values()].map((fill) => fill.ended));
    await Promise.race([all, this.#o.partition.clock.sleep(deadline)]);
    this.#closing.abort(closing());
    await all;
  }

  /**
   * A caller joins a fill, or finds bytes that came for others, only where the source has shown that the repository may see the digest. What a manifest
   * claims shows nothing: anyone can write a digest into a manifest.
   */
  async #join(repository: string, digest: Digest): Promise<Lookup<{ fill?: Fill; descriptor: Descriptor }>> {
    const { store, source } = this.#o;
    const here = await store.resolveBlob(repository, digest);
    if (here.kind === "found") return found({ descriptor: here.value }, here.served);
    let shown = false;
    while (!this.#closed) {
      const held = await store.holdsBlob(digest);
      const running = this.#running.get(digest);
      if (shown && held) {
        await store.linkBlob(repository, held);
        return found({ descriptor: held }, this.#o.partition.served);
      }
      const mine = shown || running?.repositories.has(repository) === true;
      if (!mine && (held || running)) {
        const answer = await source.resolveBlob(repository, digest, { signal: this.#closing.signal });
        if (answer.kind !== "found") return answer;
        shown = true;
        continue;
      }
      const fill = running ?? this.#start(repository, digest);
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
    if (!failure && (await store.resolveBlob(repository, fill.digest)).kind !== "found") await store.linkBlob(repository, descriptor);
    return failure;
  }

  #start(repository: string, digest: Digest): Fill {
    const { source, store, blobs, partition } = this.#o;
    const fill = new Fill({
      repository,
      digest,
      blobs: partition.blobs,
      signal: this.#closing.signal,
      // Hashed on the way into the store, so not twice.
      ask: () => untilAborted(source.getBlob(repository, digest, { signal: this.#closing.signal, verify: false }), this.#closing.signal),
      adopt: async (staged) => {
        const descriptor = await blobs.adopt(repository, digest, staged, { hashed: true });
        for (const other of fill.repositories) if (other !== repository) await store.linkBlob(other, descriptor);
      },
    });
    this.#running.set(digest, fill);
    void fill.ended.then((error) => {
      this.#running.delete(digest);
      if (fill.served === undefined) return;
      const { clock, events, name } = partition;
      events.emit("fill", {
        time: clock.now(),
        registry: name,
        repository,
        digest,
        bytes: fill.received,
        ...(error && { error: error.message }),
      });
    });
    return fill;
  }

  async #stored(repository: string, digest: Digest, o?: CallOptions & { range?: ByteRange }): Promise<Lookup<BlobContent>> {
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
