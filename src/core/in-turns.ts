import { spendTurn } from "./turn-budget.js";

/** Enough that a database over a network is not waited for item by item, and far less than a turn's work. */
const groupSize = 32;

/**
 * Works on many items a group at a time, over as many turns of the event loop as that takes. The first failure ends it; what runs of its group is not waited for.
 *
 * @param units of {@link spendTurn} that one item costs.
 */
export async function inTurns<T>(items: readonly T[], units: number, work: (item: T) => Promise<void>): Promise<void> {
  for (let from = 0; from < items.length; from += groupSize) {
    const group = items.slice(from, from + groupSize);
    const turn = spendTurn(group.length * units);
    if (turn) await turn;
    await Promise.all(group.map(work));
  }
}
