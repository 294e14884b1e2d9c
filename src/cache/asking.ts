import type { CallOptions } from "../core/registry.js";

/** Whom a question has passed: all that a source is told of the one whose call it is for. */
export type Passed = Pick<CallOptions, "via">;

/** What the source is told: the partition's own caller, and whom this question has passed. */
export function asking(call: CallOptions, o: Passed | undefined): CallOptions {
  return o?.via ? { ...call, via: o.via } : call;
}

/** How a cache asks its own store. Nobody relies on the answer: what it does not have any more comes from the source. */
export const look = { priority: "background" } as const satisfies CallOptions;

/**
 * The key of a question that is shared with those alone who came the same way. Whoever comes back in a loop has come a longer one, so that nobody waits for
 * a question that waits for them; and who came another way may be answered where this one is a loop.
 */
export function keyOf(key: string, o: Passed | undefined): string {
  return o?.via ? `${key} via ${o.via.join()}` : key;
}
