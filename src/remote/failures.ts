import type { Clock } from "../core/clock.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { absent, type Lookup, permanentlyDenied } from "../core/lookup.js";
import { systemCode } from "../core/system-code.js";

/** The kinds of {@link Lookup} that carry no value: they fit every read. */
export type RemoteError = Exclude<Lookup<never>, { kind: "found" | "linked" }>;

/** Seconds. Docker Hub counts per six hours; an hour is as long as a client should wait because an upstream says so. */
export const retryAfterLimit = 3600;

/** Something the upstream did that ends a request; its message is safe to show. */
export class RemoteFailure extends Error {}

/** Something that the upstream would do again, whenever it is asked. */
export class PermanentFailure extends RemoteFailure {}

/** Retry-After in seconds, from seconds or a date, capped. (RFC 9110 section 10.2.3) */
export function parseRetryAfter(header: string | undefined, clock: Clock): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  const seconds = /^\d+$/.test(text) ? Number(text) : Math.ceil((Date.parse(text) - clock.now()) / 1000);
  return Number.isNaN(seconds) ? undefined : Math.min(Math.max(seconds, 0), retryAfterLimit);
}

export function unavailable(message: string, retryAfter?: number): RemoteError {
  return { kind: "unavailable", error: new RegistryError("UNAVAILABLE", message, retryAfter === undefined ? {} : { retryAfter }) };
}

/** An upstream's aggregate was asked by itself: no other try would end otherwise. */
export function loop(what: string, retryAfter: number | undefined): RemoteError {
  const message = `${what}: loop: this upstream leads back to a registry that the question has passed`;
  const options = { detail: { loop: true }, ...(retryAfter !== undefined && { retryAfter }) };
  return { kind: "unavailable", error: new RegistryError("UNAVAILABLE", message, options) };
}

export function denied(message: string): RemoteError {
  return { kind: "denied", error: new RegistryError("DENIED", message) };
}

/** What a status that is no success means for the reader. `what` names the registry and the request, never a URL. */
export function failureOfStatus(status: number, what: string, retryAfter?: number): RemoteError {
  switch (status) {
    case 404:
      return absent;
    case 401:
    case 403:
      // Docker Hub answers 401 and GHCR 403 for what does not exist: only a connector's policy may read that as absent.
      return denied(`${what}: refused with ${status}; it does not exist there or these credentials may not read it`);
    case 429: {
      const options = retryAfter === undefined ? {} : { retryAfter };
      return { kind: "unavailable", error: new RegistryError("TOOMANYREQUESTS", `${what}: too many requests`, options) };
    }
    case 412:
      // Harbor's answer for images that a policy of the project keeps back. No read sends a condition that could fail otherwise.
      return denied(`${what}: refused with 412: a policy of the upstream keeps it back`);
    case 405:
      return { kind: "unavailable", error: new RegistryError("UNSUPPORTED", `${what}: answered 405`) };
    default:
      return unavailable(`${what}: answered ${status}`, retryAfter);
  }
}

/**
 * What a thrown error means for the reader. Of errors that are not ours only the code is passed on (`ECONNREFUSED`, `CERT_HAS_EXPIRED`,
 * `UND_ERR_HEADERS_TIMEOUT`): messages may hold URLs, and those may hold signatures.
 * @throws the signal's reason, when that is why.
 */
export function failureOfError(error: unknown, what: string, signal: AbortSignal | undefined): RemoteError {
  if (signal?.aborted) throw signal.reason;
  if (isRegistryError(error)) return { kind: "unavailable", error };
  if (error instanceof PermanentFailure) return permanentlyDenied(what, error.message, error);
  if (error instanceof RemoteFailure) return unavailable(`${what}: ${error.message}`);
  if (systemCode(error) === "UND_ERR_HEADERS_OVERFLOW")
    return permanentlyDenied(what, "the headers of the answer are larger than 64 KiB, the most that is read");
  return unavailable(`${what}: ${networkReason(error)}`);
}

export function networkReason(error: unknown): string {
  const code = systemCode(error);
  return code !== undefined && /^[A-Z0-9_]{1,64}$/.test(code) ? `the connection failed (${code})` : "the connection failed";
}
