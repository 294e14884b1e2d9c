import { type Clock, pause } from "../../core/clock.js";
import { mayTryAgain, postgresError } from "./postgres-errors.js";

/** Enough for a server that is started again, in some seconds; who waits longer is told. */
const pauses = [50, 200, 800] as const;

/**
 * Does what may be done again, until it succeeds or fails for good: connections break, and a pool does not know of those that broke while nobody used them.
 * @throws RegistryError for what goes wrong with the database.
 */
export async function persistently<T>(clock: Clock, attempt: () => Promise<T>): Promise<T> {
  for (const base of pauses) {
    try {
      return await attempt();
    } catch (error) {
      if (!mayTryAgain(error)) throw postgresError(error);
    }
    await pause(clock, base * (0.5 + Math.random()));
  }
  return attempt().catch((error) => {
    throw postgresError(error);
  });
}
