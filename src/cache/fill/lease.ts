import { randomBytes } from "node:crypto";
import { type Clock, pause } from "../../core/clock.js";
import type { Descriptor } from "../../core/descriptor.js";
import type { Digest } from "../../core/digest.js";
import type { Lookup } from "../../core/lookup.js";
import type { Change, Condition, StoredRecord } from "../../core/metadata-store.js";
import { type RecordKey, recordKey } from "../../core/records.js";
import type { Partition } from "../../local/partition.js";

/**
 * Milliseconds. A holder that is silent for so long can be succeeded, so nobody waits much longer for a killed one. It renews three times as often: two
 * renewals that come late, or clocks that are seconds apart, cost nothing.
 */
const timeToLive = 15_000;

/**
 * `ours`: to be filled by us. `stored`: the bytes are here. `another's`: another node fills it. `not to wait for`: so does another node, but our question may be
 * part of its own.
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
  /** Another's, in this version since then. */
  #seen: { readonly version: number; readonly at: number } | undefined;
  #looks = false;

  /** @param hops how many aggregates the question has passed. */
  constructor(partition: Partition, digest: Digest, hops: number) {
    this.#in = partition;
    this.#blob = recordKey.blob(digest);
    this.#key = recordKey.lease("fill", partition.name, digest);
    this.#hops = hops;
  }

  /** Tries once. A store that cannot be written is no reason not to serve: then everybody fills. */
  async take(): Promise<LeaseState> {
    const standing = await this.#standing().catch((): LeaseState => "ours");
    if (standing === "ours") void this.#renewing();
    return standing;
  }

  /** Part of the commit that makes the blob visible. Whoever holds the lease by then needs it no more either. */
  get removal(): Change {
    return { remove: this.#key };
  }

  /** The source gives the blob: what comes from now on waits for nobody. */
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

  async #standing(): Promise<LeaseState> {
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
    if (this.#seen?.version !== version) this.#seen = { version, at: now };
    // By our clock alone too: that of a dead holder may have been far ahead.
    const isOver = value.expiresAt <= now || now - this.#seen.at >= timeToLive;
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

  /** Until the end, or until somebody else has taken it over. */
  async #renewing(): Promise<void> {
    try {
      do await this.#in.clock.sleep(timeToLive / 3, this.#ending.signal);
      while (await this.#write());
    } catch {
      // The end.
    }
  }

  /** Also after the time is over: as long as nobody else took it, it is ours. False when somebody did. */
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
/** Between two looks, in milliseconds: a small blob is there at once, a large one may be seen a little later. */
const shortestPause = 50;
const longestPause = 500;

interface LeaseWaitOptions {
  readonly lease: FillLease;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** What the source says of the blob in the repository. */
  shown(): Promise<Lookup<Descriptor>>;
  /** Gives the repositories what another node has stored, where it is what the source has shown; false when it is gone again, `undefined` when it is something else. */
  link(shown: Descriptor): Promise<boolean | undefined>;
  /** What the answer is when nobody was asked. */
  readonly unknown: Lookup<Descriptor>;
  /** Called when another node fills it, or has filled it. */
  waiting(): void;
}

/** `filling`: the source is to be asked. Else what became of it: stored by another node, passed by, or refused by the source. */
export type LeaseOutcome =
  | { readonly phase: "filling" }
  | { readonly phase: "stored" | "overflowed" | "failed"; readonly start: Lookup<Descriptor>; readonly elsewhere?: true };

/** Waits until this node is to fill a blob, or another one has. Nobody waits before the source has shown that the repository may see it. */
export async function waitForLease(o: LeaseWaitOptions): Promise<LeaseOutcome> {
  const since = o.clock.now();
  let shown: Lookup<Descriptor> | undefined;
  for (;;) {
    const standing = await o.lease.take();
    if (standing === "ours") return { phase: "filling" };
    o.signal.throwIfAborted();
    if (standing === "not to wait for") return { phase: "overflowed", start: o.unknown };
    o.waiting();
    shown ??= await o.shown();
    if (shown.kind !== "found") return { phase: "failed", start: shown };
    if (standing === "stored") {
      // A store that cannot be written passes it on.
      const linked = await o.link(shown.value).catch(() => undefined);
      if (linked !== false) return { phase: linked ? "stored" : "overflowed", start: shown };
    }
    const waited = o.clock.now() - since;
    if (waited >= patience) return { phase: "overflowed", start: shown, elsewhere: true };
    await pause(o.clock, Math.min(longestPause, Math.max(shortestPause, waited / 4), patience - waited), o.signal);
  }
}
