import { type Clock, pause } from "../../core/clock.js";
import type { Outage } from "../outage.js";
import { isPostgresOutage, mayTryAgain, postgresError } from "./postgres-errors.js";

/** Enough for a server that is started again, in some seconds; who waits longer is told. */
const pauses = [50, 200, 800] as const;

/**
 * Does what may be done again, until it succeeds or fails for good: connections break, and a pool does not know of those that broke while nobody used them.
 * @param closing ends the wait for the next attempt: whoever closes waits for what runs.
 * @throws RegistryError for what goes wrong with the database.
 */
export async function persistently<T>(clock: Clock, outage: Outage, attempt: () => Promise<T>, closing?: AbortSignal): Promise<T> {
  for (let failures = 0; ; failures++) {
    try {
      const result = await attempt();
      outage.over();
      return result;
    } catch (error) {
      const base = pauses[failures];
      if (base === undefined || !mayTryAgain(error)) throw failure(error, outage);
      await pause(clock, base * (0.5 + Math.random()), closing).catch(() => Promise.reject(failure(error, outage)));
    }
  }
}

function failure(error: unknown, outage: Outage): unknown {
  if (isPostgresOutage(error)) outage.failed();
  return postgresError(error, outage.retryAfter);
}
