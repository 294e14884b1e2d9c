import { type Clock, systemClock } from "../core/clock.js";

/** Seconds. Whoever waits longer than the latter is told of the end of an outage too late. */
const shortest = 1;
const longest = 60;
/** Without a failure for so long, in milliseconds, the next one begins another outage: nobody has asked in between. */
const forgottenAfter = 5 * 60_000;

/** For how long a store has not answered, and so when it makes sense to ask again: soon at first, later the longer it lasts. */
export class Outage {
  readonly #clock: Clock;
  #began = 0;
  #last = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  failed(): void {
    const now = this.#clock.now();
    if (now - this.#last > forgottenAfter) this.#began = now;
    this.#last = now;
  }

  over(): void {
    this.#last = Number.NEGATIVE_INFINITY;
  }

  /** Seconds: half of what the outage has lasted so far. */
  get retryAfter(): number {
    if (this.#last === Number.NEGATIVE_INFINITY) return shortest;
    return Math.min(longest, Math.max(shortest, Math.ceil((this.#last - this.#began) / 2000)));
  }
}
