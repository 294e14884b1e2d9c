import { randomBytes } from "node:crypto";
import type { BlobStore, Staged } from "../core/blob-store.js";
import { contentChunks, heldBack } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, Hasher } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import type { Lookup, Served } from "../core/lookup.js";
import type { BlobContent } from "../core/registry.js";
import { openSpool, type Spool } from "./spool.js";

export interface FillOptions {
  /** The repository it is asked for in. */
  readonly repository: string;
  readonly digest: Digest;
  readonly blobs: BlobStore;
  readonly signal: AbortSignal;
  /** Asks the source, once. */
  ask(): Promise<Lookup<BlobContent>>;
  /** Makes the verified bytes part of the store. */
  adopt(staged: Staged): Promise<void>;
}

/** What the source said before any byte came. */
export type FillStart = Lookup<Descriptor>;

/**
 * One running copy of a blob from a source into the store. It belongs to no client: readers come, follow at their own pace and go.
 * `filling` until the last byte is here and verified, `adopting` while the store takes it over, then `stored` or `failed`.
 */
export class Fill {
  readonly digest: Digest;
  /** Whose question it was: the source's answer speaks of this repository alone. */
  readonly repository: string;
  /** Repositories that may see the blob once it is stored. */
  readonly repositories: Set<string>;
  /** The source's answer; never rejects. */
  readonly started: Promise<FillStart>;
  /** Settles with the outcome: the error of a failed fill, else nothing. Never rejects. */
  readonly ended: Promise<RegistryError | undefined>;
  phase: "filling" | "adopting" | "stored" | "failed" = "filling";
  /** Bytes that can be read. */
  received = 0;
  served: Served | undefined;
  #spool: Spool | undefined;
  #failure: RegistryError | undefined;
  #changed = withResolvers<void>();

  constructor(options: FillOptions) {
    this.digest = options.digest;
    this.repository = options.repository;
    this.repositories = new Set([options.repository]);
    const start = withResolvers<FillStart>();
    this.started = start.promise;
    this.ended = this.#run(options, start.resolve).then(
      () => undefined,
      (cause) => {
        this.#failure = asFailure(cause, options.digest);
        this.phase = "failed";
        // Whoever asks now learns why; for those already reading it comes through `follow`.
        start.resolve({ kind: "unavailable", error: this.#failure });
        this.#tell();
        return this.#failure;
      },
    );
  }

  async #run(options: FillOptions, start: (answer: FillStart) => void): Promise<void> {
    const lookup = await options.ask();
    if (lookup.kind !== "found") {
      this.phase = "failed";
      start(lookup);
      this.#tell();
      return;
    }
    this.served = lookup.served;
    const { descriptor, content } = lookup.value;
    const spool = await openSpool(options.blobs, randomBytes(16).toString("hex"));
    this.#spool = spool;
    try {
      start({ ...lookup, value: descriptor });
      const hasher = new Hasher(algorithmOf(options.digest));
      const progress = (size: number) => {
        this.received = size;
        this.#tell();
      };
      await spool.fill(verified(contentChunks(content), hasher, descriptor), progress, options.signal);
      if (hasher.digest() !== options.digest)
        throw new RegistryError("UNAVAILABLE", `the source sent other bytes than ${options.digest}; they were discarded`);
      this.received = descriptor.size;
      this.phase = "adopting";
      await options.adopt(spool.staged);
      this.phase = "stored";
      this.#tell();
    } finally {
      await spool.discard();
    }
  }

  /**
   * The bytes from `start` to `end` (inclusive) as they arrive. The last chunk waits until the whole blob is verified and stored, so nobody ever
   * holds a complete answer of wrong bytes.
   *
   * @param stored opens the same part of the blob once the store has it.
   */
  async *follow(
    start: number,
    end: number,
    stored: (range: { start: number; end: number }) => Promise<AsyncIterable<Uint8Array>>,
  ): AsyncGenerator<Uint8Array> {
    let position = start;
    while (position <= end) {
      if (this.#failure) throw this.#failure;
      if (this.phase === "stored") {
        yield* await stored({ start: position, end });
        return;
      }
      const releasable = Math.min(this.received, end + 1 - heldBack);
      if (this.phase === "adopting" || position >= releasable || !this.#spool) {
        await this.#changed.promise;
        continue;
      }
      try {
        for await (const chunk of this.#spool.read({ start: position, end: releasable - 1 })) {
          position += chunk.byteLength;
          yield chunk;
        }
      } catch (error) {
        // The store moved the bytes away between our decision to read and the opening of the file: go on from the store.
        if (this.phase === "filling") throw error;
      }
    }
  }

  #tell(): void {
    const { resolve } = this.#changed;
    this.#changed = withResolvers<void>();
    resolve();
  }
}

async function* verified(source: AsyncIterable<Uint8Array>, hasher: Hasher, { size, digest }: Descriptor): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    hasher.update(chunk);
    if (hasher.size > size) throw new RegistryError("UNAVAILABLE", `the source sent more than the ${size} bytes of ${digest}`);
    yield chunk;
  }
  if (hasher.size < size) throw new RegistryError("UNAVAILABLE", `the source sent ${hasher.size} of the ${size} bytes of ${digest}`);
}

function asFailure(cause: unknown, digest: Digest): RegistryError {
  if (isRegistryError(cause)) return cause;
  return new RegistryError("UNAVAILABLE", `the transfer of ${digest} broke off; ask again`, { cause });
}

// Promise.withResolvers needs Node 22.
function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
