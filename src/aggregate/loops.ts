import { RegistryError } from "../core/errors.js";
import type { Lookup } from "../core/lookup.js";
import type { CallOptions } from "../core/registry.js";
import { viaLimit } from "../core/via.js";

/**
 * Ends a question that comes back to the aggregate that passed it on. Its error names the aggregate; each one that the answer passes on its way back adds the
 * connector it asked, so that the whole chain can be read.
 *
 * @param hop what the aggregate calls itself in `via`.
 */
export function loopOf(name: string, hop: string, o: CallOptions | undefined): Lookup<never> | undefined {
  const via = o?.via;
  if (!via) return undefined;
  const again = via.includes(hop);
  if (!again && via.length < viaLimit) return undefined;
  const message = again
    ? `loop: ${name} is asked by itself, through ${via.length - via.indexOf(hop) - 1} other aggregates`
    : `loop: ${name} is asked through ${via.length} aggregates`;
  const members = [{ member: name, code: "UNAVAILABLE", message }];
  return { kind: "unavailable", error: new RegistryError("UNAVAILABLE", message, { retryAfter: 30, detail: { members, loop: true } }) };
}
