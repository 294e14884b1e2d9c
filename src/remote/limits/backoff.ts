import { LRUCache } from "lru-cache";
import type { Clock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import { parseRetryAfter, type RemoteError } from "../failures.js";
import { headerOf, type UpstreamResponse } from "../transport.js";

/** Seconds, for 429 without Retry-After: doubled each time, until something else is answered. */
const [firstPause, longestPause] = [1, 60];

/** As many token endpoints as one registry may name; beyond it the back-off of the least used one is forgotten. */
const originLimit = 100;

/** The back-off of each origin that one registry talks to: its own, and those of its tokens. */
export class Backoffs {
  readonly #backoffs = new LRUCache<string, Backoff>({ max: originLimit });
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  of(origin: string): Backoff {
    const backoff = this.#backoffs.get(origin) ?? new Backoff(this.#clock);
    this.#backoffs.set(origin, backoff);
    return backoff;
  }
}

/** Sends nothing to an origin that has asked for a pause (429, or 503 with Retry-After) until the pause is over. */
export class Backoff {
  readonly #clock: Clock;
  #until = Number.NEGATIVE_INFINITY;
  #pause = firstPause;
  #code: "TOOMANYREQUESTS" | "UNAVAILABLE" = "UNAVAILABLE";

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Milliseconds until requests may be sent again. */
  get wait(): number {
    return Math.max(0, this.#until - this.#clock.elapsed());
  }

  /** Milliseconds since the epoch. */
  get endsAt(): number | undefined {
    return this.wait > 0 ? this.#clock.now() + this.wait : undefined;
  }

  /** Begins a pause for a 429, and for a 503 that says until when. @returns whether it did. */
  read(response: UpstreamResponse): boolean {
    const { status } = response;
    const stated = status === 429 || status === 503 ? parseRetryAfter(headerOf(response, "retry-after"), this.#clock) : undefined;
    if (status !== 429 && stated === undefined) {
      // The answer to a request that was sent before the pause began says nothing of what comes after.
      if (this.wait === 0) this.#pause = firstPause;
      return false;
    }
    // Several 429s to requests that were on their way together double the pause once.
    if (stated === undefined && this.wait > 0) return false;
    const seconds = stated ?? this.#pause;
    if (stated === undefined) this.#pause = Math.min(this.#pause * 2, longestPause);
    const until = this.#clock.elapsed() + seconds * 1000;
    if (until <= this.#until) return false;
    this.#until = until;
    this.#code = status === 429 ? "TOOMANYREQUESTS" : "UNAVAILABLE";
    return seconds > 0;
  }

  /** What to answer instead of sending. */
  refusal(what: string): RemoteError | undefined {
    if (this.wait === 0) return undefined;
    const retryAfter = Math.ceil(this.wait / 1000);
    const why = this.#code === "TOOMANYREQUESTS" ? "too many requests" : "it asked to be left alone";
    const error = new RegistryError(this.#code, `${what}: not sent: ${why}; again in ${retryAfter} s`, { retryAfter });
    return { kind: "unavailable", error };
  }
}
