import { isRegistryError } from "../core/errors.js";
import { systemCode } from "../core/system-code.js";
import { viaHeader, viaLoop } from "../core/via.js";
import { RemoteFailure } from "./failures.js";
import { headerOf, type UpstreamResponse } from "./transport.js";

/** They are about the state of the upstream, which may pass, not about the request. */
const transient: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504]);
/** They are about the request: 501 about its method, 505 about the protocol, 507 about an upload. */
const aboutTheRequest: ReadonlySet<number> = new Set([501, 505, 507]);
const timeouts: ReadonlySet<string> = new Set(["UND_ERR_CONNECT_TIMEOUT", "UND_ERR_HEADERS_TIMEOUT", "UND_ERR_BODY_TIMEOUT", "ETIMEDOUT"]);
/** They say nothing of the upstream's health: the registry was closed, the request was given up or could not be sent, the answer has more headers than are read. */
const ours: ReadonlySet<string> = new Set([
  "UND_ERR_HEADERS_OVERFLOW",
  "UND_ERR_DESTROYED",
  "UND_ERR_CLOSED",
  "UND_ERR_ABORTED",
  "UND_ERR_INVALID_ARG",
]);

/** In milliseconds, before the second try; doubled for each further one. */
const firstDelay = 250;
/** In milliseconds. Where the upstream asks for a longer wait, the caller learns that, and decides. */
const longestWait = 5000;

/** Whether a read that was answered so is worth another try. */
export function isTransient(status: number): boolean {
  return transient.has(status);
}

/** Whether a status means that the upstream does not work. */
export function isOutage(status: number): boolean {
  return status >= 500 && !aboutTheRequest.has(status);
}

/** Whether an aggregate at the upstream says that the question has come back to one that it passed. */
export function tellsLoop(response: UpstreamResponse): boolean {
  return response.status === 503 && headerOf(response, viaHeader) === viaLoop;
}

/** What an error says of the upstream; `undefined`: nothing. */
export function faultOf(error: unknown): "network" | "timeout" | undefined {
  if (isRegistryError(error) || error instanceof RemoteFailure) return undefined;
  const code = systemCode(error);
  if (code === undefined) return "network";
  if (ours.has(code)) return undefined;
  return timeouts.has(code) ? "timeout" : "network";
}

/**
 * Milliseconds before the next try, `undefined` when there is none.
 * @param tries that were made.
 * @param retries that may be made after the first try.
 * @param wait milliseconds that the upstream asked for.
 */
export function retryDelay(tries: number, retries: number, wait: number): number | undefined {
  if (tries > retries || wait > longestWait) return undefined;
  // Jitter: clients that failed together do not come back together.
  return Math.max(wait, firstDelay * 2 ** (tries - 1) * (0.5 + Math.random()));
}
