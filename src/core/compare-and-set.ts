import { RegistryError } from "./errors.js";
import { spendTurn } from "./turn-budget.js";

/** What an attempt answers when its commit was refused, since a record that it had read was changed in between. */
export const conflicted = Symbol("conflicted");

/** Each conflict means that somebody else's change went through. With so many in a row something other than contention is wrong. */
const attempts = 100;

/**
 * Makes a change that depends on what is stored: an attempt reads records, decides, and commits on the condition that they are still as it read them. After a
 * conflict the next attempt reads them anew.
 *
 * @param what is being changed, for the error.
 * @param attempt is given the number of attempts before it.
 * @throws RegistryError UNAVAILABLE after a hundred conflicts.
 */
export async function compareAndSet<T>(what: string, attempt: (before: number) => Promise<T | typeof conflicted>): Promise<T> {
  for (let before = 0; before < attempts; before++) {
    const outcome = await attempt(before);
    if (outcome !== conflicted) return outcome;
    const turn = spendTurn();
    if (turn) await turn;
  }
  throw new RegistryError("UNAVAILABLE", `too many changes to ${what} at the same time: try again`, { retryAfter: 1 });
}
