import { Readable } from "node:stream";
import pLimit, { type LimitFunction } from "p-limit";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { absent, found, type Lookup } from "../core/lookup.js";
import { type ByteRange, resolveRange } from "../core/range.js";
import type { BlobContent, CallOptions, LinkingRegistry, Registry } from "../core/registry.js";
import type { LocalBlobs } from "../local/blobs.js";
import type { Partition } from "../local/partition.js";
import { Fill, heldBack } from "./fill.js";

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

  constructor(options: FillsOptions) {
    this.#o = options;
    this.#background = pLimit(options.concurrency);
  }

  /** What the source has under this digest in this repository, as it arrives. Only for blobs that the store does not have. */
  async get(repository: string, text: string, o?: CallOptions & { range?: ByteRange }): Promise<Lookup<BlobContent>> {
    const digest = parseDigest(text);
    const joined = await this.#join(repository, digest);
    if (joined.kind !== "found") return joined;
    const { fill, descriptor } = joined.value;
    const served = joined.served;
    if (!fill) return this.#stored(repository, digest, o);
    const range = o?.range && resolveRange(o.range, descriptor.size);
    if (descriptor.size <= heldBack) {
      const failure = await fill.ended;
      return failure ? { kind: "unavailable", error: failure } : this.#stored(repository, digest, o);
    }
    const { start, end } = range ?? { start: 0, end: descriptor.size - 1 };
    const open = () =>
      Readable.from(
        fill.follow(start, end, (part) => this.#chunks(fill, part)),
        { objectMode: false, highWaterMark: heldBack },
      );
    return found({ descriptor, content: { kind: "stream", open }, ...(range && { range }) }, served);
  }

  /** Waits until the store has the blob. @throws RegistryError when the source cannot give it. */
  async bring(repository: string, digest: Digest): Promise<void> {
    const joined = await this.#join(repository, digest);
    if (joined.kind === "denied" || joined.kind === "unavailable") throw joined.error;
    if (joined.kind !== "found") throw new RegistryError("BLOB_UNKNOWN", `the source has no ${digest} in ${repository}`);
    const failure = await joined.value.fill?.ended;
    if (failure) throw failure;
  }

  /** As `bring`, behind everything that clients wait for. */
  bringLater(repository: string, digest: Digest): Promise<void> {
    return this.#background(async () => {
      if (this.#closing.signal.aborted || (await this.#o.store.resolveBlob(repository, digest)).kind === "found") return;
      await this.bring(repository, digest);
    });
  }

  /** Waits for running fills until the deadline (milliseconds), then breaks them off. */
  async close(deadline: number): Promise<void> {
    this.#background.clearQueue();
    const all = Promise.all([...this.#running.values()].map((fill) => fill.ended));
    await Promise.race([all, this.#o.partition.clock.sleep(deadline)]);
    this.#closing.abort(new RegistryError("UNAVAILABLE", "the registry is closing"));
    await all;
  }

  /** A caller joins a fill, or finds bytes that came for others, only where the repository has shown that it may see the digest. */
  async #join(repository: string, digest: Digest): Promise<Lookup<{ fill?: Fill; descriptor: Descriptor }>> {
    const { store, source } = this.#o;
    const here = await store.resolveBlob(repository, digest);
    if (here.kind === "found") return found({ descriptor: here.value }, here.served);
    let shown = here.kind === "linked";
    let fill: Fill | undefined;
    while (!fill) {
      const held = await store.holdsBlob(digest);
      const running = this.#running.get(digest);
      if (shown && held) {
        await store.linkBlob(repository, held);
        return found({ descriptor: held }, this.#o.partition.served);
      }
      if (shown || !(held || running)) {
        fill = running ?? this.#start(repository, digest);
        break;
      }
      const answer = await source.resolveBlob(repository, digest);
      if (answer.kind !== "found") return answer;
      shown = true;
    }
    fill.repositories.add(repository);
    const answer = await fill.started;
    return answer.kind === "found" ? found({ fill, descriptor: answer.value }, answer.served) : answer;
  }

  #start(repository: string, digest: Digest): Fill {
    const { source, store, blobs, partition } = this.#o;
    const fill = new Fill({
      digest,
      blobs: partition.blobs,
      signal: this.#closing.signal,
      ask: () => source.getBlob(repository, digest, { signal: this.#closing.signal }),
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
