import { errorText, isRegistryError, type RegistryError } from "../core/errors.js";
import type { Site, WireRequest } from "./exchange.js";
import { isStorageError } from "./topology.js";

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
