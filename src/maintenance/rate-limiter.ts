import { type Clock, pause } from "../core/clock.js";

/** Less than this is not slept off at once: timers are not that exact, and small blobs would each cost one. Milliseconds. */
const shortest = 20;

/** So many bytes a second, however many share it. What is not used is not saved up: no burst follows a pause. */
export class RateLimiter {
  readonly #clock: Clock;
  readonly #bytesPerMillisecond: number;
  /** When everything that was read so far is paid for. */
  #paidAt = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock, bytesPerSecond: number) {
    this.#clock = clock;
    this.#bytesPerMillisecond = bytesPerSecond / 1000;
  }

  /** Waits as long as these bytes may take. @throws the signal's reason. */
  async spend(bytes: number, signal?: AbortSignal): Promise<void> {
    const now = this.#clock.elapsed();
    this.#paidAt = Math.max(this.#paidAt, now) + bytes / this.#bytesPerMillisecond;
    const paidAt = this.#paidAt;
    for (let wait = paidAt - now; wait >= shortest; wait = paidAt - this.#clock.elapsed()) {
      // No timer of Node's can be longer than 24 days.
      await pause(this.#clock, Math.min(wait, 60_000), signal);
    }
  }
}
