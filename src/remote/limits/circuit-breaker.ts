import type { Clock } from "../../core/clock.js";

export type BreakerState = "closed" | "open" | "half-open";

/** A request that the circuit breaker has let through. Its first outcome counts, later ones do not. */
export interface Passage {
  succeeded(): void;
  failed(): void;
  /** It ended, and that says nothing about the upstream. */
  abandoned(): void;
}

export interface BreakerLimits {
  /** Failures in a row that open it, when they took `shortest`; twice as many in any time. */
  readonly failures: number;
  /** Milliseconds. */
  readonly openFor: number;
}

/** In milliseconds, from the first to the last failure of a row: a burst of requests that meets one hiccup is no outage. */
const shortest = 2000;
/** In milliseconds. An upstream that comes back is seen within this time. */
const longestOpen = 120_000;
/** In milliseconds. The Retry-After of requests that come while a probe is in progress. */
const probeWait = 1000;

/** Keeps requests from an origin that does not answer, and lets one at a time find out whether it does again. */
export class CircuitBreaker {
  readonly #clock: Clock;
  readonly #limits: BreakerLimits;
  #opened = false;
  #probing = false;
  #failures = 0;
  #firstFailure = 0;
  #until = 0;
  #openFor: number;

  constructor(clock: Clock, limits: BreakerLimits) {
    this.#clock = clock;
    this.#limits = limits;
    this.#openFor = limits.openFor;
  }

  get state(): BreakerState {
    if (!this.#opened) return "closed";
    return this.#until > this.#clock.elapsed() ? "open" : "half-open";
  }

  /** Milliseconds since the epoch. */
  get retryAt(): number | undefined {
    return this.state === "open" ? this.#clock.now() + this.wait : undefined;
  }

  /** Milliseconds until a request may pass. */
  get wait(): number {
    if (this.state === "closed") return 0;
    if (this.#probing) return Math.max(probeWait, this.#until - this.#clock.elapsed());
    return Math.max(0, this.#until - this.#clock.elapsed());
  }

  /**
   * Somebody who asked beside the requests got an answer. What requests get may still be failures, so the next one of those opens it again at once.
   */
  recovered(): void {
    if (!this.#opened) return;
    this.#opened = false;
    this.#failures = Math.max(0, this.#limits.failures - 1);
    this.#firstFailure = this.#clock.elapsed() - shortest;
  }

  /** Only when there is nothing to wait for. */
  enter(): Passage {
    const probe = this.#opened;
    if (probe) this.#probing = true;
    let open = true;
    const once = (then: () => void) => () => {
      if (!open) return;
      open = false;
      if (probe) this.#probing = false;
      // A request that began before the breaker opened is too old to tell.
      if (probe === this.#opened) then();
    };
    return {
      succeeded: once(() => this.#close()),
      failed: once(() => (probe ? this.#open(Math.min(this.#openFor * 2, Math.max(longestOpen, this.#limits.openFor))) : this.#count())),
      abandoned: once(() => {}),
    };
  }

  #close(): void {
    this.#opened = false;
    this.#failures = 0;
    this.#openFor = this.#limits.openFor;
  }

  #count(): void {
    const now = this.#clock.elapsed();
    if (this.#failures === 0) this.#firstFailure = now;
    this.#failures++;
    const { failures } = this.#limits;
    const lasting = this.#failures >= failures && now - this.#firstFailure >= shortest;
    if (lasting || this.#failures >= 2 * failures) this.#open(this.#openFor);
  }

  #open(openFor: number): void {
    this.#opened = true;
    this.#openFor = openFor;
    this.#until = this.#clock.elapsed() + openFor;
  }
}
