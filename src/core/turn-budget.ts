/**
 * How much work one turn of the event loop does at most, in units. A unit is what takes about 10 µs on a small machine: reading one record from SQLite, or
 * scanning a few KiB. 300 units are about 3 ms, so a pull that needs ten turns is answered within 30 ms while a maintenance job uses all that is left.
 */
export const unitsPerTurn = 300;

const bytesPerUnit = 1024;

/** What it costs to parse or write so many bytes of JSON: short keys cost far more than long texts, so the worst is reckoned with. */
export function unitsOfBytes(bytes: number): number {
  return 1 + Math.floor(bytes / bytesPerUnit);
}

interface Waiting {
  readonly units: number;
  readonly resume: () => void;
}

/** How the next turn is waited for, and who sees what a turn did; tests replace both. */
export interface TurnOptions {
  /** Default: `setImmediate`, which lets timers, sockets and signals have their turn first. */
  readonly schedule?: (run: () => void) => void;
  /** Sees the units of each turn that ended. */
  readonly ended?: (units: number) => void;
}

/** Spreads work over turns of the event loop. One is shared by all that runs in a process ({@link spendTurn}); tests make their own. */
export class TurnBudget {
  readonly #schedule: (run: () => void) => void;
  readonly #ended: (units: number) => void;
  readonly #waiting: Waiting[] = [];
  #spent = 0;
  #scheduled = false;

  constructor({ schedule = setImmediate, ended = () => {} }: TurnOptions = {}) {
    this.#schedule = schedule;
    this.#ended = ended;
  }

  /**
   * Accounts for work that is about to be done.
   *
   * @param units of work; one piece of work should be far smaller than a whole turn.
   * @returns nothing when the work may be done now; else a promise to wait for first. Those who wait go on in the order in which they came.
   */
  spend(units = 1): Promise<void> | undefined {
    this.#nextTurn();
    if (this.#waiting.length === 0 && this.#spent < unitsPerTurn) {
      this.#spent += units;
      return undefined;
    }
    return new Promise((resume) => {
      this.#waiting.push({ units, resume });
    });
  }

  /** Does a piece of work as soon as {@link spend} would let it. What it charges itself holds up those that wait behind it, also within the same turn. */
  run<T>(units: number, work: () => T): T | Promise<T> {
    this.#nextTurn();
    if (this.#waiting.length === 0 && this.#spent < unitsPerTurn) {
      this.#spent += units;
      return work();
    }
    return new Promise((resolve, reject) => {
      const resume = () => {
        try {
          resolve(work());
        } catch (error) {
          reject(error);
        }
      };
      this.#waiting.push({ units, resume });
    });
  }

  /** Accounts for work that was done and cost more than was said before, as a read whose record turned out to be large. */
  charge(units: number): void {
    this.#nextTurn();
    this.#spent += units;
  }

  #nextTurn(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#schedule(() => this.#begin());
  }

  #begin(): void {
    this.#scheduled = false;
    this.#ended(this.#spent);
    this.#spent = 0;
    let admitted = 0;
    for (const { units, resume } of this.#waiting) {
      if (this.#spent >= unitsPerTurn) break;
      this.#spent += units;
      admitted += 1;
      resume();
    }
    this.#waiting.splice(0, admitted);
    // What was let through belongs to this turn: it has to be over before the next one counts from nothing.
    if (admitted > 0) this.#nextTurn();
  }
}

const shared = new TurnBudget();

/**
 * Accounts for work that is about to be done on the event loop. Promises alone do not let timers, sockets and signals run: a loop whose every step is answered
 * from memory is one turn, however many `await`s it has.
 *
 * @param units of about 10 µs each.
 * @returns nothing when the work may be done now; else a promise to wait for first.
 *   `const turn = spendTurn(); if (turn) await turn;` in front of each step of a loop.
 */
export function spendTurn(units = 1): Promise<void> | undefined {
  return shared.spend(units);
}

/**
 * Does a piece of work within the budget: now, or in the first later turn that has units left for it. For work whose cost is known only once it is done: it accounts for
 * the rest itself ({@link chargeTurn}).
 *
 * @param units that it costs at least.
 * @returns what the work returns, or a promise of it. An error is thrown, or rejects the promise.
 */
export function inTurn<T>(units: number, work: () => T): T | Promise<T> {
  return shared.run(units, work);
}

/** Accounts for work on the event loop that is done already and cost so many units more than was said: those that come after it wait. */
export function chargeTurn(units: number): void {
  shared.charge(units);
}

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
