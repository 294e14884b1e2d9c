import { RegistryError } from "../../core/errors.js";
import { type Duration, toMilliseconds } from "../../core/units.js";

/** How much a remote registry asks of its upstream, and when it stops asking. Each URL has these limits for itself. */
export interface UpstreamLimits {
  /** Requests in progress at once. A request counts until the body of its response is read or given up. Writes count, and do not wait. Default 64. */
  readonly maxRequests?: number;
  /** Connections to one origin at once, those to where redirects lead included. Default 32. */
  readonly maxConnections?: number;
  /** Default: no limit. */
  readonly maxRequestsPerSecond?: number;
  /**
   * The part of a pull quota, as Docker Hub's, that is not used up: with so little left, manifests are not fetched, only asked for by HEAD, so that a cache
   * serves what it has. Default 0; 0.05 for `dockerHub`.
   */
  readonly quotaReserve?: number;
  /** Further tries of a read after a network error or a transient status (408, 429, 500, 502, 503, 504). Default 2. */
  readonly retries?: number;
  /**
   * When requests to an upstream that fails are stopped: after `failures` in a row within two seconds or more (twice as many in any time), for `openFor`,
   * doubled up to two minutes, or until it answers `/v2/`, which is asked in the background every ten seconds for five minutes after the last request. Default `{ failures: 5, openFor: "10s" }`; false: never.
   */
  readonly breaker?: BreakerOptions | false;
}

export interface BreakerOptions {
  /** Default 5. */
  readonly failures?: number;
  /** Default `"10s"`. */
  readonly openFor?: Duration;
}

/** The options with their defaults, durations in milliseconds. */
export interface ReadUpstreamLimits {
  readonly maxRequests: number;
  readonly maxConnections: number;
  readonly maxRequestsPerSecond: number | undefined;
  readonly quotaReserve: number;
  readonly retries: number;
  readonly breaker: { readonly failures: number; readonly openFor: number };
}

/** @throws RegistryError UNKNOWN for values that cannot work. */
export function readUpstreamLimits(options: UpstreamLimits): ReadUpstreamLimits {
  const { maxRequests = 64, maxConnections = 32, maxRequestsPerSecond, quotaReserve = 0, retries = 2, breaker = {} } = options;
  const { failures = 5, openFor = "10s" } = breaker === false ? { failures: Number.POSITIVE_INFINITY } : breaker;
  const check = (works: boolean, message: string) => {
    if (!works) throw new RegistryError("UNKNOWN", message);
  };
  check(Number.isInteger(maxRequests) && maxRequests > 0, "maxRequests must be a whole number above 0");
  check(Number.isInteger(maxConnections) && maxConnections > 0, "maxConnections must be a whole number above 0");
  const isRate = maxRequestsPerSecond === undefined || (Number.isFinite(maxRequestsPerSecond) && maxRequestsPerSecond > 0);
  check(isRate, "maxRequestsPerSecond must be a number above 0");
  check(quotaReserve >= 0 && quotaReserve < 1, "quotaReserve must be a part, from 0 to below 1");
  check(Number.isInteger(retries) && retries >= 0, "retries must be a whole number");
  check(
    failures === Number.POSITIVE_INFINITY || (Number.isInteger(failures) && failures > 0),
    "breaker.failures must be a whole number above 0",
  );
  const limits = { failures, openFor: toMilliseconds(openFor) };
  return { maxRequests, maxConnections, maxRequestsPerSecond, quotaReserve, retries, breaker: limits };
}
