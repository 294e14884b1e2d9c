import type { Clock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import { type RemoteError, retryAfterLimit } from "../failures.js";
import { headerOf, type UpstreamResponse, wholeNumber } from "../transport.js";

/** The pull quota that the upstream stated last. */
export interface PullQuota {
  readonly limit: number;
  readonly remaining: number;
  /** The time to which the limit applies. */
  readonly windowSeconds: number;
  /** Whom it counts for, as `docker-ratelimit-source` says: an address or an account's id. */
  readonly source?: string;
}

/**
 * Docker Hub's pull quota, from the headers of any answer (`ratelimit-limit: 100;w=21600`). Answers to HEAD name it and do not count, so the numbers stay fresh while
 * nothing is pulled.
 */
export class QuotaWatch {
  readonly #clock: Clock;
  readonly #reserve: number;
  #last: (PullQuota & { readonly readAt: number }) | undefined;

  /** @param reserve part of the limit that is not used up. */
  constructor(clock: Clock, reserve: number) {
    this.#clock = clock;
    this.#reserve = reserve;
  }

  read(response: UpstreamResponse): void {
    const limit = counted(headerOf(response, "ratelimit-limit"));
    const remaining = counted(headerOf(response, "ratelimit-remaining"));
    // Without a window it is another scheme (GitLab's counts requests), whose numbers mean something else.
    if (!limit?.window || !remaining) return;
    const source = headerOf(response, "docker-ratelimit-source");
    const named = source !== undefined && source.length <= 100 ? { source } : {};
    this.#last = { limit: limit.count, remaining: remaining.count, windowSeconds: limit.window, ...named, readAt: this.#clock.now() };
  }

  /** The quota stated last, while its window lasts. */
  get current(): PullQuota | undefined {
    if (!this.#last || this.#last.readAt + this.#last.windowSeconds * 1000 <= this.#clock.now()) return undefined;
    const { readAt, ...quota } = this.#last;
    return quota;
  }

  /**
   * Milliseconds until there is likely more than the reserve: the limit comes back evenly over its window. If it does not, the next answer says so.
   */
  get wait(): number {
    const quota = this.current;
    if (!this.#last || !quota || quota.limit === 0) return 0;
    const missing = Math.floor(this.#reserve * quota.limit) - quota.remaining + 1;
    if (missing <= 0) return 0;
    const recovery = Math.min(missing / quota.limit, 1) * quota.windowSeconds * 1000;
    return Math.max(0, this.#last.readAt + recovery - this.#clock.now());
  }

  /** What to answer instead of a request that counts. */
  refusal(what: string): RemoteError | undefined {
    const { wait, current } = this;
    if (wait === 0 || !current) return undefined;
    const retryAfter = Math.min(Math.ceil(wait / 1000), retryAfterLimit);
    const message = `${what}: not sent: ${current.remaining} of ${current.limit} pulls are left, which are kept in reserve`;
    return { kind: "unavailable", error: new RegistryError("TOOMANYREQUESTS", message, { retryAfter }) };
  }
}

function counted(header: string | undefined): { readonly count: number; readonly window: number | undefined } | undefined {
  const match = /^(\d+)(?:\s*;\s*w=(\d+))?$/.exec(header?.trim() ?? "");
  const count = wholeNumber(match?.[1]);
  return count === undefined ? undefined : { count, window: wholeNumber(match?.[2]) };
}
