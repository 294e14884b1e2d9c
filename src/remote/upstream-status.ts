import type { Clock } from "../core/clock.js";
import type { EventSink, UpstreamEvent } from "../core/events.js";
import type { Registry } from "../core/registry.js";
import type { BreakerState } from "./limits/circuit-breaker.js";
import type { PullQuota } from "./limits/pull-quota.js";

/** How one URL of a remote registry is doing. */
export interface UpstreamStatus {
  /** Scheme, host and port. */
  readonly url: string;
  /** Whether it answers: false after a read that failed in every try. `undefined`: it was not asked yet. */
  readonly reachable: boolean | undefined;
  /** Since when, in milliseconds since the epoch. */
  readonly since: number;
  /** The last failure, which may be long over. */
  readonly lastError?: { readonly time: number; readonly message: string };
  readonly breaker: BreakerState;
  /** Nothing is sent before this time, in milliseconds since the epoch: the upstream has asked for that, or the breaker is open. */
  readonly retryAt?: number;
  /** Absent: the upstream tells of no pull limit. */
  readonly quota?: PullQuota;
  readonly requests: { readonly running: number; readonly queued: number };
  /** Body bytes received. */
  readonly bytes: number;
  /** Milliseconds since the epoch; absent: the credentials do not say. */
  readonly credentialExpiresAt?: number;
}

export interface RemoteStatus {
  /** In the order of preference. */
  readonly urls: readonly UpstreamStatus[];
}

/** A registry over HTTP. */
export interface RemoteRegistry extends Registry {
  /** How the upstream is doing, from what was seen of it: it is not asked. `ready()` does not depend on it. */
  status(): RemoteStatus;
}

export interface UpstreamHealthParts {
  /** The registry's name. */
  readonly name: string;
  readonly url: string;
  readonly clock: Clock;
  readonly events: EventSink;
  /** Failures in a row before it counts as unreachable. */
  readonly failures: number;
}

/** What is known of one origin from its answers, and the events about it. */
export class UpstreamHealth {
  reachable: boolean | undefined;
  since: number;
  lastError: { readonly time: number; readonly message: string } | undefined;
  readonly #parts: UpstreamHealthParts;
  #row = 0;
  #state: UpstreamEvent["state"] | undefined;

  constructor(parts: UpstreamHealthParts) {
    this.#parts = parts;
    this.since = parts.clock.now();
  }

  /** @param limit why it is limited, if it is. */
  answered(limit: string | undefined): void {
    this.#row = 0;
    this.#reaches(true);
    this.#is(limit === undefined ? "up" : "limited", limit);
  }

  /** @param isOut whether the breaker has opened. */
  failed(message: string, limit: string | undefined, isOut: boolean): void {
    this.#row++;
    this.lastError = { time: this.#parts.clock.now(), message };
    if (this.#row >= this.#parts.failures || isOut) {
      this.#reaches(false);
      if (limit === undefined) this.#is("down", message);
    }
    if (limit !== undefined) this.#is("limited", limit);
  }

  #reaches(reachable: boolean): void {
    if (reachable === this.reachable) return;
    this.reachable = reachable;
    this.since = this.#parts.clock.now();
  }

  #is(state: UpstreamEvent["state"], message: string | undefined): void {
    const before = this.#state;
    this.#state = state;
    // That it works from the beginning is no news.
    if (state === before || (before === undefined && state === "up")) return;
    const { name, url, clock, events } = this.#parts;
    events.emit("upstream", { time: clock.now(), registry: name, url, state, ...(message !== undefined && { message }) });
  }
}
