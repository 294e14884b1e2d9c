import { setTimeout as wait } from "node:timers/promises";
import { databaseError, sqliteFault } from "./database-errors.js";
import type { SqliteDatabase } from "./sqlite-driver.js";

/** One caller's commit: checks its conditions and makes its changes inside the transaction; false when the conditions do not hold. */
export type Work = () => boolean;

interface Waiting {
  readonly work: Work;
  resolve(committed: boolean): void;
  reject(error: unknown): void;
}

/** A transaction blocks the thread: more than this many commits wait for the next turn. */
const groupLimit = 256;
/** For how long another process may hold the database before a commit gives up. */
const patience = 30_000;

/**
 * Commits that wait in the same turn of the event loop share one transaction, and so one fsync. They stay independent: each sees its own
 * conditions, and when one fails the others are tried again, each alone.
 */
export class GroupCommit {
  #database: SqliteDatabase;
  #path: string;
  #queue: Waiting[] = [];
  #running: Promise<void> | undefined;

  constructor(path: string, database: SqliteDatabase) {
    this.#path = path;
    this.#database = database;
  }

  add(work: Work): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ work, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  /** Resolves when nothing waits any more. */
  async drain(): Promise<void> {
    while (this.#running) await this.#running;
  }

  async #run(): Promise<void> {
    do {
      // After the I/O of this turn: requests that arrived together are then all in the queue.
      await new Promise((resolve) => setImmediate(resolve));
      const group = this.#queue.splice(0, groupLimit);
      await this.#settle(group);
    } while (this.#queue.length > 0);
    this.#running = undefined;
  }

  async #settle(group: readonly Waiting[]): Promise<void> {
    try {
      const outcomes = await this.#patiently(group);
      group.forEach((waiting, index) => {
        waiting.resolve(outcomes[index] === true);
      });
    } catch (error) {
      if (group.length === 1) group[0]?.reject(databaseError(this.#path, error));
      else for (const waiting of group) await this.#settle([waiting]);
    }
  }

  /** The transaction, tried again while another process holds the database. */
  async #patiently(group: readonly Waiting[]): Promise<boolean[]> {
    const start = performance.now();
    for (;;) {
      try {
        return this.#transaction(group);
      } catch (error) {
        if (sqliteFault(error) !== "busy" || performance.now() - start > patience) throw error;
      }
      await wait(5 + Math.random() * 20);
    }
  }

  // Without an await from begin to end: another store in this process that waits for the lock blocks the thread that would release it.
  #transaction(group: readonly Waiting[]): boolean[] {
    this.#database.exec("BEGIN IMMEDIATE");
    try {
      const outcomes = group.map((waiting) => waiting.work());
      this.#database.exec("COMMIT");
      return outcomes;
    } catch (error) {
      try {
        this.#database.exec("ROLLBACK");
      } catch {
        // SQLite has rolled back itself, as it does when the disk is full.
      }
      throw error;
    }
  }
}
