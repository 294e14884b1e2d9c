import type { Action } from "../access/policy.js";
import { isRegistryError } from "../core/errors.js";
import type { Exchange } from "./exchange.js";

/** Asks the host's policy one question about this request; a refusal is also an event. @throws RegistryError as `Policy.admit` does. */
export async function admittedTo(
  x: Exchange,
  action: Action,
  repository: string | undefined,
  reference: string | undefined,
  namespace: string | undefined,
): Promise<void> {
  const { caller, address, trace } = x.call;
  try {
    const waiting = x.site.policy.admit({
      action,
      ...(caller && { caller }),
      ...(repository !== undefined && { repository }),
      ...(reference !== undefined && { reference }),
      ...(namespace !== undefined && { namespace }),
    });
    if (waiting) await waiting;
  } catch (error) {
    x.site.events.emit("denied", {
      time: x.site.now(),
      repository: repository ?? "",
      action,
      code: isRegistryError(error) ? error.code : "UNKNOWN",
      ...(caller && { caller }),
      ...(address !== undefined && { address }),
      ...(trace !== undefined && { trace }),
      ...(reference !== undefined && { reference }),
    });
    throw error;
  }
}
