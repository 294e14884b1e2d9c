import { randomBytes } from "node:crypto";
import { type Clock, pause } from "../../core/clock.js";
import type { Descriptor } from "../../core/descriptor.js";
import type { Digest } from "../../core/digest.js";
import type { Lookup } from "../../core/lookup.js";
import type { Change, Condition, StoredRecord } from "../../core/metadata-store.js";
import { type RecordKey, recordKey } from "../../core/records.js";
import type { Partition } from "../../local/partition.js";

/**
 * Milliseconds. After this time another node can take the lease over, so nobody waits much longer for a holder that was killed. The holder renews three times as often:
 * two renewals that come late, or clocks that are seconds apart, cost nothing.
 */
const timeToLive = 15_000;

/**
 * `ours`: this node fills the blob. `stored`: the bytes are here. `another's`: another node fills it. `not to wait for`: another node fills it as well, but our question
 * may be a part of its own.
 */
type LeaseState = "ours" | "stored" | "another's" | "not to wait for";

/**
 * The right to bring a blob into a cache, among all processes that share its storage. It saves transfers and protects nothing: bytes are verified and
 * adopted as ever, so two holders, by a pause or by clocks that disagree, cost a second transfer and no more.
 */
export class FillLease {
  readonly #in: Partition;
  readonly #blob: RecordKey<"blob">;
  readonly #key: RecordKey<"lease">;
  /** Not a process id: those of two machines are alike, and come again. */
  readonly #holder = randomBytes(16).toString("hex");
  readonly #hops: number;
  #isGiven = false;
  readonly #ending = new AbortController();
  #writing: Promise<unknown> = Promise.resolve();
  /** The lease of another node, and since when it has had this version. */
  #seen: { readonly version: number; readonly at: number } | undefined;
  #looks = false;

  /** @param hops how many aggregates the question has passed. */
  constructor(partition: Partition, digest: Digest, hops: number) {
    this.#in = partition;
    this.#blob = recordKey.blob(digest);
    this.#key = recordKey.lease("fill", partition.name, digest);
    this.#hops = hops;
  }

  /** Tries once to take the lease. A store that cannot be written is no reason not to serve: then every node fills. */
  async take(): Promise<LeaseState> {
    const state = await this.#tried().catch((): LeaseState => "ours");
    if (state === "ours") void this.#renewing();
    return state;
  }

  /** Part of the commit that makes the blob visible. Who holds the lease by then needs it no more either. */
  get removal(): Change {
    return { remove: this.#key };
  }

  /** The source gives the blob: from now on this fill waits for nobody, so every question may wait for it. */
  given(): void {
    this.#isGiven = true;
    void this.#write();
  }

  /** @param removed the blob was stored, and `removal` with it. */
  async end(removed: boolean): Promise<void> {
    this.#ending.abort();
    await this.#writing;
    if (!removed) await this.#whileOurs(({ version }) => this.#commit({ key: this.#key, is: "version", version }, { remove: this.#key }));
  }

  async #tried(): Promise<LeaseState> {
    const { metadata, clock } = this.#in;
    // Most blobs are wanted by one node at a time, so the first try looks at nothing.
    if (!this.#looks && (await this.#take({ key: this.#key, is: "absent" }))) return "ours";
    this.#looks = true;
    // In this order: a blob appears in the commit in which its lease goes.
    const lease = await metadata.get(this.#key);
    if (await metadata.get(this.#blob)) return "stored";
    if (!lease) return (await this.#take({ key: this.#key, is: "absent" })) ? "ours" : "another's";
    const { version, value } = lease;
    const now = clock.now();
    const elapsed = clock.elapsed();
    if (this.#seen?.version !== version) this.#seen = { version, at: elapsed };
    // Also by our clock alone: that of a dead holder may have been far ahead.
    const isOver = value.expiresAt <= now || elapsed - this.#seen.at >= timeToLive;
    if (isOver && (await this.#take({ key: this.#key, is: "version", version }))) return "ours";
    return value.hops !== undefined && value.hops < this.#hops ? "not to wait for" : "another's";
  }

  /** On the condition that nobody has stored the blob meanwhile: what was read may be older than that. */
  #take(condition: Condition): Promise<boolean> {
    return this.#in.metadata.commit([condition, { key: this.#blob, is: "absent" }], [this.#put()]);
  }

  #put(): Change {
    const hops = this.#isGiven ? {} : { hops: this.#hops };
    return { put: this.#key, value: { holder: this.#holder, expiresAt: this.#in.clock.now() + timeToLive, ...hops } };
  }

  /** Renews until the end, or until another node has taken the lease over. */
  async #renewing(): Promise<void> {
    try {
      do await this.#in.clock.sleep(timeToLive / 3, this.#ending.signal);
      while (await this.#write());
    } catch {
      // The end.
    }
  }

  /** Renews once, also after the time is over: as long as no other node took the lease, it is ours. False when one did. */
  #write(): Promise<boolean> {
    const written = this.#writing.then(() => {
      if (this.#ending.signal.aborted) return false;
      return this.#whileOurs(({ version }) => this.#commit({ key: this.#key, is: "version", version }, this.#put()));
    });
    this.#writing = written;
    return written;
  }

  /** What fails may work the next time. */
  async #whileOurs(work: (lease: StoredRecord<"lease">) => Promise<boolean>): Promise<boolean> {
    try {
      const lease = await this.#in.metadata.get(this.#key);
      return lease?.value.holder === this.#holder && (await work(lease));
    } catch {
      return true;
    }
  }

  #commit(condition: Condition, change: Change): Promise<boolean> {
    return this.#in.metadata.commit([condition], [change]);
  }
}

/** Milliseconds. Longer than a lease, so that whoever waits for a node that was killed takes over; a large layer is not waited for to its end. */
const patience = 30_000;
/** Between two tries, in milliseconds: a small blob is there at once, a large one may be seen a little later. */
const shortestPause = 50;
const longestPause = 500;

interface LeaseWaitOptions {
  readonly lease: FillLease;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** What the source says of the blob in the repository. */
  shown(): Promise<Lookup<Descriptor>>;
  /** Lets the repositories refer to what another node has stored, where it is what the source has shown; false when it is gone again, `undefined` when it is something else. */
  refer(shown: Descriptor): Promise<boolean | undefined>;
  /** What the answer is when the source was not asked. */
  readonly unknown: Lookup<Descriptor>;
  /** Called when another node fills the blob, or has filled it. */
  waiting(): void;
}

/**
 * `filling`: this node is to ask the source. Else what became of the fill: another node stored the blob, it is not waited for, or the source refuses. `byAnotherNode`: the
 * other one still fills.
 */
export type LeaseOutcome =
  | { readonly phase: "filling" }
  | { readonly phase: "stored" | "overflowed" | "failed"; readonly start: Lookup<Descriptor>; readonly byAnotherNode?: true };

/** Waits until this node is to fill a blob, or another one has. Nobody waits before the source has shown that the repository may see it. */
export async function waitForLease(o: LeaseWaitOptions): Promise<LeaseOutcome> {
  const since = o.clock.elapsed();
  let shown: Lookup<Descriptor> | undefined;
  for (;;) {
    const state = await o.lease.take();
    if (state === "ours") return { phase: "filling" };
    o.signal.throwIfAborted();
    if (state === "not to wait for") return { phase: "overflowed", start: o.unknown };
    o.waiting();
    shown ??= await o.shown();
    if (shown.kind !== "found") return { phase: "failed", start: shown };
    if (state === "stored") {
      // Where the store cannot be written, the blob is passed on.
      const referred = await o.refer(shown.value).catch(() => undefined);
      if (referred !== false) return { phase: referred ? "stored" : "overflowed", start: shown };
    }
    const waited = o.clock.elapsed() - since;
    if (waited >= patience) return { phase: "overflowed", start: shown, byAnotherNode: true };
    await pause(o.clock, Math.min(longestPause, Math.max(shortestPause, waited / 4), patience - waited), o.signal);
  }
}
