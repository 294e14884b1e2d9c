import type { CallOptions } from "../core/registry.js";
import { isViaKnown } from "../core/via.js";

/** The aggregates that a question has passed: all that the source is told of the call that the question is for. */
export type ViaOptions = Pick<CallOptions, "via" | "knownVia">;

export function viaOf(o: ViaOptions | undefined): ViaOptions {
  return { ...(o?.via && { via: o.via }), ...(o?.knownVia && { knownVia: o.knownVia }) };
}

/** The options for a call of the source: the partition's own caller, and whom this question has passed. */
export function sourceCall(call: CallOptions, o: ViaOptions | undefined): CallOptions {
  return o?.via ? { ...call, ...viaOf(o) } : call;
}

/** How a cache asks its own store. Nobody relies on the answer: what it does not have any more comes from the source. */
export const backgroundPriority = { priority: "background" } as const satisfies CallOptions;

/**
 * The key under which a question is shared: only with questions that have passed the same aggregates, as far as that is known for sure. A question that comes back in a loop
 * has passed more, so it never waits for itself; and a question that has passed others may get an answer where this one is a loop.
 */
export function singleFlightKey(key: string, o: ViaOptions | undefined): string {
  return o?.knownVia?.length ? `${key} via ${o.knownVia.join()}` : key;
}

/** How many aggregates have passed the question on, as far as that is known for sure: a client could write any number. */
export function knownHops(o: ViaOptions | undefined): number {
  return o?.knownVia?.length ?? 0;
}

/** Whether the loop that one question has found may be none for a caller that shares its answer. @param passed whom the question has passed. */
export function mayBeNoLoopFor(caller: ViaOptions | undefined, passed: ViaOptions): boolean {
  return singleFlightKey("", passed) !== singleFlightKey("", caller) || (isViaKnown(caller) && !isViaKnown(passed));
}
