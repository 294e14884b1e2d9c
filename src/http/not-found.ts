import { RegistryError } from "../core/errors.js";
import { errorResponse } from "./errors.js";
import type { WireResponse } from "./exchange.js";

/** The response to what is not the registry API's, where no host is there to give another. */
export function notFoundResponse(method: string | undefined): WireResponse {
  const error = new RegistryError("NAME_UNKNOWN", "nothing here: the registry API is below /v2/", { status: 404 });
  return errorResponse(error, { head: method === "HEAD", challenge: "" });
}
