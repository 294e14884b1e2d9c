import { isRegistryError, RegistryError } from "../core/errors.js";
import type { Lookup } from "../core/lookup.js";
import type { Caller } from "../core/registry.js";
import { isLoop, viaLoop } from "../core/via.js";
import { jsonResponse, type WireHeaders, type WireResponse } from "./exchange.js";
import { withoutPlaces } from "./topology.js";

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
