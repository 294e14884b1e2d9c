/**
 * What becomes of an error. `errorResponse` is what the client sees of it, without what it may not know: places in the composition and in its storage. `reportRequestFault` is what
 * the host learns: everything, about bugs and about a storage that fails.
 */
import { type ErrorCode, errorText, isRegistryError, RegistryError, withoutPlaceNames } from "../core/errors.js";
import { type Lookup, permanentReason } from "../core/lookup.js";
import type { Caller } from "../core/registry.js";
import { isLoop, viaLoop } from "../core/via.js";
import { jsonResponse, type Site, type WireHeaders, type WireRequest, type WireResponse } from "./exchange.js";

export interface ErrorContext {
  readonly head: boolean;
  /** Sent with every 401. */
  readonly challenge: string;
  /** Whether this client may know which members an answer came from. Default: false. */
  readonly topology?: boolean;
}

/** A client's details stay small, whatever an upstream or a store put into them. */
const messageLimit = 2048;

/** An error as a client sees it. HEAD gets the headers alone. */
export function errorResponse(thrown: unknown, context: ErrorContext, more: WireHeaders = {}): WireResponse {
  const error = isRegistryError(thrown) ? thrown : new RegistryError("UNKNOWN", "internal error");
  const { code, status, retryAfter } = error;
  const { message, detail } = context.topology ? error : withoutPlaces(error);
  const headers: WireHeaders = { ...more };
  if (status === 401) headers["WWW-Authenticate"] = context.challenge;
  if (retryAfter !== undefined && Number.isFinite(retryAfter)) headers["Retry-After"] = String(Math.max(0, Math.ceil(retryAfter)));
  // Without this a load balancer or client may come back at once.
  else if (status === 503 || status === 429) headers["Retry-After"] = "1";
  if (isLoop(error)) headers["Manifold-Via"] = viaLoop;
  const body = { errors: [{ code, message: message.slice(0, messageLimit), ...(detail !== undefined && { detail }) }] };
  return jsonResponse(status, body, { head: context.head, more: headers });
}

/**
 * The error of a lookup that found nothing to serve.
 *
 * @param unknown what an absent answer is called here. A link counts as absent: an aggregate would have followed it.
 */
export function lookupError(
  lookup: Exclude<Lookup<unknown>, { kind: "found" }>,
  unknown: "MANIFEST_UNKNOWN" | "BLOB_UNKNOWN" | "NAME_UNKNOWN",
  caller: Caller | undefined,
): RegistryError {
  switch (lookup.kind) {
    case "absent":
      return lookup.error ?? new RegistryError(unknown, "not found");
    case "linked":
      return new RegistryError(unknown, "not found");
    case "denied":
      // Whoever has signed in here and is refused further inwards must not be asked to sign in again: docker would loop.
      if (lookup.error.status === 401 && caller) {
        const { message, detail } = lookup.error;
        return new RegistryError("DENIED", message, { cause: lookup.error, detail });
      }
      return lookup.error;
    case "unavailable":
      return lookup.error;
  }
}

/** podman takes only MANIFEST_UNKNOWN for "not there", so every 404 about a manifest says it, also for an unknown repository. */
export function asManifestError(thrown: unknown): unknown {
  if (!isRegistryError(thrown) || thrown.status !== 404 || thrown.code === "MANIFEST_UNKNOWN") return thrown;
  return new RegistryError("MANIFEST_UNKNOWN", thrown.message, { cause: thrown, detail: thrown.detail });
}

/** The response to what is not the registry API's, where no host is there to give another. */
export function notFoundResponse(method: string | undefined): WireResponse {
  const error = new RegistryError("NAME_UNKNOWN", "nothing here: the registry API is below /v2/", { status: 404 });
  return errorResponse(error, { head: method === "HEAD", challenge: "" });
}

/** The messages for those who may not know of members: what went wrong, not where. */
const memberMessages: Partial<Record<ErrorCode, string>> = {
  UNAVAILABLE: "a registry behind this one cannot answer at the moment: try again later",
  TOOMANYREQUESTS: "a registry behind this one asks for fewer requests: try again later",
  DENIED: "a registry behind this one does not allow this",
  BLOB_UNKNOWN: "not found",
  MANIFEST_UNKNOWN: "not found",
};

const loopMessage = "loop: a registry behind this one leads back to it";

/** A store's error names a path, a bucket or a server in its message, and says so in `detail.storage`. */
function isStorageError({ detail }: RegistryError): boolean {
  return typeof detail === "object" && detail !== null && "storage" in detail;
}

/** The messages of errors of a storage, for all clients. */
const storageMessages: Partial<Record<ErrorCode, string>> = {
  INSUFFICIENT_STORAGE: "the registry's disk is full: what arrived is kept; try again when its operator has freed space",
  UNAVAILABLE: "the registry's storage cannot do this at the moment: try again later",
  BLOB_UNKNOWN: "not found",
};

/** An aggregate's error lists its members in `detail.members`; then its message may name them too. Others are as they are. */
function withoutPlaces(error: RegistryError): { message: string; detail: unknown } {
  const { code, detail } = error;
  if (isStorageError(error)) return { message: storageMessages[code] ?? "the registry's storage could not do this", detail: undefined };
  if (typeof detail !== "object" || detail === null || !("members" in detail)) return { message: withoutPlaceNames(error), detail };
  const { members: _, ...rest } = detail;
  const text =
    "loop" in rest ? loopMessage : (permanentReason(error) ?? memberMessages[code] ?? "a registry behind this one could not do this");
  return { message: text, detail: Object.keys(rest).length > 0 ? rest : undefined };
}

/** A warning says what it is about, then a colon, then why: that may name members and quote them. */
export function withoutReason(line: string): string {
  return line.replace(/^(299 - "(?:[^"\\:]|\\.|:(?! ))*): .*"$/, '$1"');
}

/** Emits a `fault` event with everything, for the host. The client learns nothing about bugs, and of a storage that fails only that it does. */
export function reportRequestFault(site: Site, request: Pick<WireRequest, "method" | "target" | "signal">, error: unknown): void {
  const ofStorage = storageErrorIn(error);
  if (isRegistryError(error) && error.code !== "UNKNOWN" && !ofStorage) return;
  // What fails after the client left fails because it left.
  if (request.signal.aborted) return;
  const cause = ofStorage ?? (isRegistryError(error) ? (error.cause ?? error) : error);
  site.events.emit("fault", { time: site.now(), registry: "http", message: `${request.method} ${request.target}: ${describe(cause)}` });
}

/** An aggregate's error has that of its member as its cause. */
function storageErrorIn(error: unknown): RegistryError | undefined {
  if (!isRegistryError(error)) return undefined;
  return isStorageError(error) ? error : storageErrorIn(error.cause);
}

/** With the stack where the error may be a bug. */
function describe(cause: unknown): string {
  if (isRegistryError(cause)) {
    const why = cause.cause instanceof Error ? cause.cause.message : "";
    return cause.message.includes(why) ? cause.message : `${cause.message} (${why})`;
  }
  return (cause instanceof Error && cause.stack) || errorText(cause);
}
