import { type Clock, pause } from "../core/clock.js";

/** Who goes before whom. `aside` waits for the rate, never for a place. */
export type Lane = "aside" | "foreground" | "background";

export interface TurnsLimits {
  /** Places. */
  readonly running: number;
  /** Turns a second; absent: as many as there are. */
  readonly perSecond: number | undefined;
}

interface Waiting {
  call(turn: boolean): void;
}

/** The order in which they go. */
const lanes = ["aside", "foreground", "background"] as const;
/** Far more than clients wait for at one time; beyond it waiting is pointless. */
const queueLimit = 10_000;

/** The queue in front of one origin: how many requests run at once, how many start in a second, and whose turn is next. */
export class Turns {
  running = 0;
  readonly #queues: Readonly<Record<Lane, Set<Waiting>>> = { aside: new Set(), foreground: new Set(), background: new Set() };
  readonly #clock: Clock;
  readonly #limits: TurnsLimits;
  readonly #ended = new AbortController();
  /** A token bucket that holds one second's worth. */
  readonly #capacity: number;
  #tokens: number;
  #filledAt: number;
  #waking = false;

  constructor(clock: Clock, limits: TurnsLimits) {
    this.#clock = clock;
    this.#limits = limits;
    this.#capacity = Math.max(1, limits.perSecond ?? 1);
    this.#tokens = this.#capacity;
    this.#filledAt = clock.now();
  }

  get queued(): number {
    return lanes.reduce((sum, lane) => sum + this.#queues[lane].size, 0);
  }

  get isFull(): boolean {
    return this.queued >= queueLimit;
  }

  /**
   * Waits for a turn, which must be given back.
   * @returns false when all who waited were sent away: see `dismiss`.
   * @throws the signal's reason.
   */
  take(lane: Lane, signal: AbortSignal | undefined): Promise<boolean> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      if (this.#ended.signal.aborted) return resolve(false);
      const queue = this.#queues[lane];
      const leave = () => {
        queue.delete(waiting);
        reject(signal?.reason);
      };
      const waiting: Waiting = {
        call: (turn) => {
          queue.delete(waiting);
          signal?.removeEventListener("abort", leave);
          resolve(turn);
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

  /** Everybody who waits is sent away, to see why. */
  dismiss(): void {
    for (const lane of lanes) for (const waiting of [...this.#queues[lane]]) waiting.call(false);
  }

  /** No more turns. */
  end(): void {
    this.#ended.abort();
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
      next.call(true);
    }
  }

  #next(): Waiting | undefined {
    const open = this.running < this.#limits.running ? lanes : lanes.slice(0, 1);
    for (const lane of open) for (const waiting of this.#queues[lane]) return waiting;
    return undefined;
  }

  /** Milliseconds until there is a token; 0: one was taken. */
  #takeToken(): number {
    const { perSecond } = this.#limits;
    if (perSecond === undefined) return 0;
    const now = this.#clock.now();
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
    pause(this.#clock, milliseconds, this.#ended.signal).then(wake, () => {});
  }
}
