import { type Clock, pause } from "../core/clock.js";
import { errorText, isRegistryError } from "../core/errors.js";
import type { EventSink } from "../core/events.js";

/** Between two attempts, in milliseconds: doubled each time, up to the latter. */
const firstPause = 1000;
const longestPause = 10_000;

export interface Start {
  /** The store, for the host. */
  readonly what: string;
  readonly clock: Clock;
  readonly events: EventSink;
  /** How long it may be waited for, in milliseconds. */
  readonly limit: number;
  /** The store was closed. */
  readonly signal: AbortSignal;
}

/**
 * Waits for a store that does not answer yet: after a power failure, or where an orchestrator starts all at once, it may come up later than this process. A `fault` event
 * says that, and another one that it answers. What does not pass by itself, as a bucket that is not there, is not waited for.
 *
 * @throws what the last attempt threw.
 */
export async function started({ what, clock, events, limit, signal }: Start, attempt: () => Promise<void>): Promise<void> {
  const tell = (message: string) => events.emit("fault", { time: clock.now(), registry: "storage", message });
  let waited = 0;
  for (let next = firstPause; ; next = Math.min(longestPause, next * 2)) {
    const begun = clock.now();
    try {
      await attempt();
      if (waited > 0) tell(`${what} answers: the start goes on`);
      return;
    } catch (error) {
      // A store that is away says when it makes sense to ask again.
      const passes = isRegistryError(error) && error.code === "UNAVAILABLE" && error.retryAfter !== undefined;
      if (!passes || waited >= limit || signal.aborted) throw error;
      if (waited === 0) tell(`the start waits up to ${limit / 1000} s for ${what}: ${errorText(error)}`);
      const left = Math.min(next, limit - waited);
      await pause(clock, left, signal).catch(() => Promise.reject(error));
      waited += Math.max(left, clock.now() - begun);
    }
  }
}
