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
  /**
   * Nothing is sent before this time, in milliseconds since the epoch: the upstream has asked for that, or the breaker is open. That one closes earlier when the upstream answers in the background.
   */
  readonly retryAt?: number;
  /** Absent: the upstream names no pull quota. */
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
