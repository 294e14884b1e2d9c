import { type Clock, systemClock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";

/** How long an append waits for others to give memory back, in milliseconds: longer than they may keep it, and than most clients' pauses. */
const patience = 60_000;

/** An upload keeps its part in memory for so long at least, in milliseconds: a part that is stored early has to be read back. */
const leastTime = 2000;

/** How often that is looked at while somebody waits, in milliseconds. */
const interval = 1000;

interface Waiting {
  readonly bytes: number;
  readonly admit: (reservation: Reservation) => void;
}

/** Memory for one part. */
export class Reservation {
  readonly bytes: number;
  /** Since when, in milliseconds since the epoch. */
  readonly since: number;
  /** Stores what the part has so far, and then releases its memory; set while its upload waits for its client. */
  spill: (() => void) | undefined;
  readonly #memory: PartMemory;

  constructor(memory: PartMemory, bytes: number, since: number) {
    this.#memory = memory;
    this.bytes = bytes;
    this.since = since;
  }

  /** Idempotent. */
  release(): void {
    this.#memory.released(this);
  }
}

/**
 * The memory for parts of all uploads to one store. An append that finds none free waits. Each reserves memory for whole parts, so none that has begun a part needs
 * more to finish it. The parts that wait for their clients are stored as they are when others need memory, so that clients that stop, or nearly stop, keep nobody out.
 */
export class PartMemory {
  readonly #limit: number;
  readonly #clock: Clock;
  /** The oldest first. */
  readonly #reservations = new Set<Reservation>();
  readonly #queue = new Set<Waiting>();
  #held = 0;
  #sweeping = false;

  /** @param limit in bytes. */
  constructor(limit: number, clock: Clock = systemClock) {
    this.#limit = limit;
    this.#clock = clock;
  }

  /** Bytes that are reserved now. */
  get held(): number {
    return this.#held;
  }

  /** @throws RegistryError TOOMANYREQUESTS when it takes too long; the signal's reason when that aborts. */
  async take(size: number, signal: AbortSignal | undefined): Promise<Reservation> {
    signal?.throwIfAborted();
    // A part of a very large object may be larger than all there is: it goes alone.
    const bytes = Math.min(size, this.#limit);
    if (this.#queue.size === 0 && this.#held + bytes <= this.#limit) return this.#reserved(bytes);
    const over = new AbortController();
    const late = this.#clock.sleep(patience, signal ? AbortSignal.any([signal, over.signal]) : over.signal).then(() => {
      throw new RegistryError("TOOMANYREQUESTS", "uploads hold as much memory as they may: go on with this one later", { retryAfter: 5 });
    });
    let admit = (_: Reservation) => {};
    const admitted = new Promise<Reservation>((resolve) => {
      admit = resolve;
    });
    const waiting = { bytes, admit };
    this.#queue.add(waiting);
    this.#sweepOnce();
    try {
      return await Promise.race([admitted, late]);
    } catch (error) {
      if (this.#queue.delete(waiting)) this.#admit();
      else (await admitted).release();
      throw error;
    } finally {
      over.abort();
      late.catch(() => {});
    }
  }

  /** For reservations. */
  released(reservation: Reservation): void {
    if (!this.#reservations.delete(reservation)) return;
    this.#held -= reservation.bytes;
    this.#admit();
  }

  #reserved(bytes: number): Reservation {
    const reservation = new Reservation(this, bytes, this.#clock.now());
    this.#reservations.add(reservation);
    this.#held += bytes;
    return reservation;
  }

  #admit(): void {
    for (const waiting of this.#queue) {
      if (this.#held + waiting.bytes > this.#limit) return;
      this.#queue.delete(waiting);
      waiting.admit(this.#reserved(waiting.bytes));
    }
  }

  #sweepOnce(): void {
    if (this.#sweeping) return;
    this.#sweeping = true;
    const done = () => {
      this.#sweeping = false;
    };
    // Only a clock of the host's can fail; whoever waits next tries again.
    this.#sweep().then(done, done);
  }

  async #sweep(): Promise<void> {
    while (this.#queue.size > 0) {
      this.#spill();
      await this.#clock.sleep(interval);
    }
  }

  /** As much as is waited for, from those who have had it for longest. */
  #spill(): void {
    let wanted = [...this.#queue].reduce((sum, { bytes }) => sum + bytes, 0);
    const before = this.#clock.now() - leastTime;
    for (const reservation of this.#reservations) {
      if (wanted <= 0 || reservation.since > before) return;
      const { spill } = reservation;
      if (!spill) continue;
      reservation.spill = undefined;
      wanted -= reservation.bytes;
      spill();
    }
  }
}
