import { isRegistryError } from "../core/errors.js";
import type { Site, WireRequest } from "./exchange.js";
import { isStorageError } from "./topology.js";

/** The client is told nothing about bugs, and of a disk that fails only that it does: the host is told everything. */
export function tellFault(site: Site, request: Pick<WireRequest, "method" | "target" | "signal">, error: unknown): void {
  if (isRegistryError(error) && error.code !== "UNKNOWN" && !isStorageError(error)) return;
  // What fails after the client left fails because it left.
  if (request.signal.aborted) return;
  const cause = isRegistryError(error) && !isStorageError(error) ? (error.cause ?? error) : error;
  site.events.emit("fault", { time: site.now(), registry: "http", message: `${request.method} ${request.target}: ${told(cause)}` });
}

function told(cause: unknown): string {
  if (isRegistryError(cause)) return cause.message;
  return cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
}
