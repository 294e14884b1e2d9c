import { randomBytes } from "node:crypto";
import type { BlobStore, Staged } from "../../core/blob-store.js";
import type { Clock } from "../../core/clock.js";
import { type Content, withheldTail } from "../../core/content.js";
import type { Descriptor } from "../../core/descriptor.js";
import { algorithmOf, type Digest, Hasher } from "../../core/digest.js";
import { isRegistryError, RegistryError } from "../../core/errors.js";
import type { Lookup, Served } from "../../core/lookup.js";
import { largeRead, withReadSize } from "../../core/read-size.js";
import type { ViaOptions } from "../source-call.js";
import type { FillLease, LeaseOutcome } from "./lease.js";
import { openSpool, type Spool } from "./spool.js";
import { type TransferSource, transferred, WrongBytes } from "./transfer.js";

interface FillOptions {
  /** The repository in which the first caller asks for it. */
  readonly repository: string;
  readonly digest: Digest;
  /** Whom the question has passed. */
  readonly passed: ViaOptions;
  readonly blobs: BlobStore;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly lease: FillLease;
  /** Waits while another node has the lease. @param waiting called when another node has it. */
  awaitLease(waiting: () => void): Promise<LeaseOutcome>;
  /** The cache's own source, whose answer decides, then others that may have the bytes. */
  readonly sources: readonly TransferSource[];
  /** Makes the verified bytes part of the store. It can be called again where it found the storage full. */
  adopt(staged: Staged): Promise<void>;
  /** Frees what a failed `adopt` has left. */
  abandon(staged: Staged): Promise<void>;
  /** Evicts other blobs for so many bytes. Answers whether anything was freed. */
  evict(bytes: number): Promise<boolean>;
  /** Whether a blob of this size is to be kept. */
  keeps(size: number): boolean;
  /** Told of bytes that were discarded because they are not the blob's, when another source is tried. */
  discarded(error: RegistryError): void;
}

/** What the source said before any byte came. */
type FillStart = Lookup<Descriptor>;

type FillPhase = "waiting" | "filling" | "adopting" | "stored" | "overflowed" | "failed";

/**
 * One running copy of a blob from a source into the store. It belongs to no client: readers come, follow at their own pace and go.
 *
 * A fill first takes its lease, so that one node at a time transfers the blob (`lease.ts`). Then bytes come from a source, are hashed (`transfer.ts`) and written into the
 * spool (`spool.ts`). Readers (`reader.ts`) read them there, up to the withheld tail. Once the digest is verified, the store takes the spool over. Its phases:
 *
 *             another has the lease             verified             taken over
 *   waiting <----------------------- filling ------------> adopting ------------> stored
 *    | | |  ----------------------->  |   |                 |    |                  ^
 *    | | |     the lease is ours      |   |                 |    |                  |
 *    | | +--- another node stored it -|---|-----------------|----|------------------+
 *    | |                              |   |                 |    |
 *    | +----- it is not waited for ---+---|-- not kept -----+----|--------------> overflowed
 *    |                                    |                      |
 *    +------- the source refuses, no source gives the blob, or an error --------> failed
 *
 * - It begins as `filling`, and ends as `stored`, `overflowed` or `failed`.
 * - `overflowed`: the blob is too large to be kept, the storage is full, another node takes too long, or that node's question may wait for ours. The blob is passed
 *   on and not stored: readers finish at the source, each for itself.
 * - Wrong bytes are thrown away and `generation` counts up; the phase stays. Then other sources are asked.
 * - A fill that is stopped fails, in whatever phase.
 */
export class Fill {
  readonly digest: Digest;
  /** The repository of the first caller: the source's answer speaks of this one alone. */
  readonly repository: string;
  readonly passed: ViaOptions;
  /** Repositories that may see the blob once it is stored. */
  readonly repositories: Set<string>;
  /** The source's answer; never rejects. Where the source says no size, it comes with the last byte, and the size of what has overflowed is 0. */
  readonly started: Promise<FillStart>;
  /** Resolves with the error of a failed fill, else with nothing. Never rejects. */
  readonly ended: Promise<RegistryError | undefined>;
  phase: FillPhase = "filling";
  /** Bytes that can be read from `spool`. */
  received = 0;
  /** Counts the times that everything was thrown away: what was read before is not the blob. */
  generation = 0;
  /** Set once the source has begun to give it. */
  served: Served | undefined;
  spool: Spool | undefined;
  failure: RegistryError | undefined;
  /** It was not waited for, and another node still fills. */
  byAnotherNode = false;
  /** Once overflowed: the hash of the bytes that the spool has. Readers go on from there, each with a copy. */
  overflow: Hasher | undefined;
  /** Readers that may still need the spool. */
  #readers = 0;
  #unread: (() => void) | undefined;
  readonly #changes = new Changes();
  readonly #o: FillOptions;

  constructor(options: FillOptions) {
    this.#o = options;
    this.digest = options.digest;
    this.repository = options.repository;
    this.passed = options.passed;
    this.repositories = new Set([options.repository]);
    let start: (answer: FillStart) => void = () => {};
    this.started = new Promise((resolve) => {
      start = resolve;
    });
    this.ended = this.#run(start).then(
      () => undefined,
      (cause) => {
        this.failure = asFailure(cause, options.digest);
        this.#to("failed");
        // Who asks now learns why; those who read already find it in `failure`.
        start({ kind: "unavailable", error: this.failure });
        return this.failure;
      },
    );
  }

  /** Resolves at the next progress. */
  get changed(): Promise<void> {
    return this.#changes.next;
  }

  async #run(start: (answer: FillStart) => void): Promise<void> {
    const { lease } = this.#o;
    const outcome = await this.#o.awaitLease(() => this.#to("waiting"));
    if (outcome.phase === "filling") {
      this.#to("filling");
      await this.#transfer(start).finally(() => lease.end(this.phase === "stored"));
      return;
    }
    this.byAnotherNode = outcome.byAnotherNode === true;
    if (outcome.phase === "overflowed") this.#overflowed(new Hasher(algorithmOf(this.digest)));
    else this.#to(outcome.phase);
    start(outcome.start);
  }

  async #transfer(start: (answer: FillStart) => void): Promise<void> {
    const [own] = this.#o.sources;
    if (!own) throw new RegistryError("UNAVAILABLE", "no source to ask");
    const lookup = await own.ask(undefined, this.#o.signal);
    if (lookup.kind !== "found") {
      start(lookup);
      this.#to("failed");
      return;
    }
    this.served = lookup.served;
    const { descriptor, content, unsized } = lookup.value;
    const size = unsized ? undefined : descriptor.size;
    // A blob of one chunk is here before anybody has read that.
    if (size === undefined || size > withheldTail) this.#o.lease.given();
    if (size !== undefined) start({ ...lookup, value: descriptor });
    if (size !== undefined && !this.#o.keeps(size)) {
      if (content.kind === "stream") content.open().destroy();
      this.#overflowed(new Hasher(algorithmOf(this.digest)));
      return;
    }
    await this.#fill(content, size);
    if (size === undefined) start({ ...lookup, value: { ...descriptor, size: this.overflow ? 0 : this.received } });
  }

  /** Tries sources until the store has the blob, or nobody is left who could give other bytes. */
  async #fill(first: Content, size: number | undefined): Promise<void> {
    const untried: (readonly TransferSource[])[] = [this.#o.sources];
    for (let begin: Content | undefined = first, sources = untried.shift(); sources; begin = undefined, sources = untried.shift()) {
      const used = new Set<TransferSource>();
      try {
        await this.#once(sources, used, begin, size);
        return;
      } catch (error) {
        if (error instanceof WrongBytes) untried.push(...afterWrongBytes(sources, used));
        if (untried.length === 0 || this.#o.signal.aborted) throw error;
        if (error instanceof WrongBytes) this.#o.discarded(error);
        this.generation++;
        this.received = 0;
      }
    }
  }

  async #once(sources: readonly TransferSource[], used: Set<TransferSource>, first: Content | undefined, size: number | undefined) {
    const { blobs, signal, clock, digest } = this.#o;
    const evict = () => this.#o.evict((size ?? 0) - this.received);
    const spool = await unlessFull(() => openSpool(blobs, randomBytes(16).toString("hex")), evict);
    if (!spool) {
      if (first?.kind === "stream") first.open().destroy();
      this.#overflowed(new Hasher(algorithmOf(digest)));
      return;
    }
    this.spool = spool;
    try {
      const hasher = new Hasher(algorithmOf(digest));
      const bytes = transferred({ sources, used, from: 0, size, hasher, clock, signal, ...(first && { first }) });
      const progress = (received: number) => {
        this.received = received;
        this.#changes.tell();
      };
      if (!(await unlessFull(() => spool.fill(this.#kept(bytes), { progress, signal, makeRoom: evict }).then(() => true)))) {
        // More may have been hashed than was written, so what was written is read.
        const written = new Hasher(algorithmOf(digest));
        if (this.received > 0) {
          const spooled = withReadSize(spool.read({ start: 0, end: this.received - 1 }), largeRead);
          for await (const chunk of spooled) written.update(chunk);
        }
        this.#overflowed(written);
        return;
      }
      const whole = hasher.copy();
      if (hasher.digest() !== digest) throw new WrongBytes(`the source sent other bytes than ${digest}; they were discarded`);
      this.received = hasher.size;
      this.#to("adopting");
      if (await unlessFull(() => this.#o.adopt(spool.staged).then(() => true), evict)) this.#to("stored");
      else this.#overflowed(whole);
    } finally {
      if (this.phase === "overflowed") {
        this.#unread = () => this.#forget(spool);
        if (this.#readers === 0) this.#unread();
      } else {
        // Readers who find the file gone learn why at the next change.
        this.spool = undefined;
        await this.#discard(spool);
      }
    }
  }

  /** The same bytes, up to the size that is kept: where nobody said how large the blob is, that shows only on the way. */
  async *#kept(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    let size = 0;
    for await (const chunk of bytes) {
      size += chunk.byteLength;
      if (!this.#o.keeps(size)) throw new RegistryError("INSUFFICIENT_STORAGE", `${this.digest} is larger than what is kept`);
      yield chunk;
    }
  }

  #overflowed(hasher: Hasher): void {
    this.overflow = hasher;
    this.#to("overflowed");
  }

  async #discard(spool: Spool): Promise<void> {
    await Promise.all([spool.discard(), this.phase !== "stored" && this.#o.abandon(spool.staged)]);
  }

  /** After the last reader of an overflowed fill: who comes now begins at the source. */
  #forget(spool: Spool): void {
    this.#unread = undefined;
    this.spool = undefined;
    this.received = 0;
    this.overflow = new Hasher(algorithmOf(this.digest));
    this.#discard(spool).catch(() => {});
  }

  /** Counts a reader: as long as there is one, an overflowed fill keeps its spool. */
  enter(): void {
    this.#readers++;
  }

  leave(): void {
    if (--this.#readers === 0) this.#unread?.();
  }

  get readers(): number {
    return this.#readers;
  }

  #to(phase: FillPhase): void {
    this.phase = phase;
    this.#changes.tell();
  }
}

/** Who is asked after wrong bytes. Where those of several sources were joined, nobody knows whose were wrong, so each is asked alone. */
function afterWrongBytes(sources: readonly TransferSource[], used: ReadonlySet<TransferSource>): (readonly TransferSource[])[] {
  // Wrong without a byte: an empty answer, of the first.
  const suspects = used.size > 0 ? [...used] : sources.slice(0, 1);
  const others = sources.filter((source) => !suspects.includes(source));
  return [...(suspects.length > 1 ? suspects.map((source) => [source]) : []), ...(others.length > 0 ? [others] : [])];
}

/** `undefined` when the storage is full, and nothing could be evicted. */
async function unlessFull<T>(store: () => Promise<T>, evict?: () => Promise<boolean>): Promise<T | undefined> {
  try {
    return await store();
  } catch (error) {
    if (!isRegistryError(error) || error.code !== "INSUFFICIENT_STORAGE") throw error;
    return (await evict?.()) ? unlessFull(store) : undefined;
  }
}

function asFailure(cause: unknown, digest: Digest): RegistryError {
  if (isRegistryError(cause)) return cause;
  return new RegistryError("UNAVAILABLE", `the transfer of ${digest} broke off; ask again`, { cause });
}

/** Tells any number of waiters that something has changed. */
class Changes {
  /** Resolves at the next change. */
  next: Promise<void>;
  #tell: () => void = () => {};

  constructor() {
    this.next = this.#wait();
  }

  tell(): void {
    const tell = this.#tell;
    this.next = this.#wait();
    tell();
  }

  #wait(): Promise<void> {
    return new Promise((resolve) => {
      this.#tell = resolve;
    });
  }
}
