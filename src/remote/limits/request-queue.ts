import { type Clock, pause } from "../../core/clock.js";

/**
 * Which requests go first. A request that is `exempt` waits for the rate, never for a place: it is made by somebody who holds a place already, or it is a
 * write. `foreground` is what a client waits for, `background` what nobody waits for.
 */
export type RequestPriority = "exempt" | "foreground" | "background";

export interface RequestQueueLimits {
  /** Requests that run at once. */
  readonly running: number;
  /** Requests that start in a second; absent: no limit. */
  readonly perSecond: number | undefined;
}

interface Waiting {
  settle(hasPlace: boolean): void;
}

/** The order in which they go. */
const priorities = ["exempt", "foreground", "background"] as const;
/** Far more than clients wait for at one time; beyond it waiting is pointless. */
const queueLimit = 10_000;

/** The queue in front of one origin: how many requests run at once, how many start in a second, and which one is next. */
export class RequestQueue {
  running = 0;
  readonly #waiting: Readonly<Record<RequestPriority, Set<Waiting>>> = {
    exempt: new Set(),
    foreground: new Set(),
    background: new Set(),
  };
  readonly #clock: Clock;
  readonly #limits: RequestQueueLimits;
  readonly #closed = new AbortController();
  /** A token bucket that holds one second's worth. */
  readonly #capacity: number;
  #tokens: number;
  #filledAt: number;
  #waking = false;

  constructor(clock: Clock, limits: RequestQueueLimits) {
    this.#clock = clock;
    this.#limits = limits;
    this.#capacity = Math.max(1, limits.perSecond ?? 1);
    this.#tokens = this.#capacity;
    this.#filledAt = clock.elapsed();
  }

  get queued(): number {
    return priorities.reduce((sum, priority) => sum + this.#waiting[priority].size, 0);
  }

  get isFull(): boolean {
    return this.queued >= queueLimit;
  }

  /**
   * Waits for a place, which must be given back by `release`.
   * @returns false when the queue was emptied meanwhile: see `dismiss`.
   * @throws the signal's reason.
   */
  take(priority: RequestPriority, signal: AbortSignal | undefined): Promise<boolean> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      if (this.#closed.signal.aborted) return resolve(false);
      const queue = this.#waiting[priority];
      const leave = () => {
        queue.delete(waiting);
        reject(signal?.reason);
      };
      const waiting: Waiting = {
        settle: (hasPlace) => {
          queue.delete(waiting);
          signal?.removeEventListener("abort", leave);
          resolve(hasPlace);
        },
      };
      queue.add(waiting);
      signal?.addEventListener("abort", leave, { once: true });
      this.#advance();
    });
  }

  release(): void {
    this.running--;
    this.#advance();
  }

  /** Empties the queue: each request that waits looks again whether it may be sent. */
  dismiss(): void {
    for (const priority of priorities) for (const waiting of [...this.#waiting[priority]]) waiting.settle(false);
  }

  /** Gives no more places. */
  close(): void {
    this.#closed.abort();
    this.dismiss();
  }

  #advance(): void {
    for (let next = this.#next(); next; next = this.#next()) {
      const missing = this.#takeToken();
      if (missing > 0) {
        this.#advanceIn(missing);
        return;
      }
      this.running++;
      next.settle(true);
    }
  }

  #next(): Waiting | undefined {
    const admitted = this.running < this.#limits.running ? priorities : priorities.slice(0, 1);
    for (const priority of admitted) for (const waiting of this.#waiting[priority]) return waiting;
    return undefined;
  }

  /** Milliseconds until there is a token; 0: one was taken. */
  #takeToken(): number {
    const { perSecond } = this.#limits;
    if (perSecond === undefined) return 0;
    const now = this.#clock.elapsed();
    this.#tokens = Math.min(this.#capacity, this.#tokens + (Math.max(0, now - this.#filledAt) * perSecond) / 1000);
    this.#filledAt = now;
    // Thousandths of a token are lost to rounding.
    if (this.#tokens < 0.999) return Math.max(1, Math.ceil(((1 - this.#tokens) * 1000) / perSecond));
    this.#tokens = Math.max(0, this.#tokens - 1);
    return 0;
  }

  #advanceIn(milliseconds: number): void {
    if (this.#waking) return;
    this.#waking = true;
    const wake = () => {
      this.#waking = false;
      this.#advance();
    };
    pause(this.#clock, milliseconds, this.#closed.signal).then(wake, () => {});
  }
}
