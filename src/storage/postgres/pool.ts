import { systemClock } from "../../core/clock.js";
import { withinDeadline } from "../deadline.js";

/** What is read of the answer to a query. */
export interface PostgresResult {
  readonly rows: readonly unknown[];
}

/** One connection, taken out of a pool. */
export interface PostgresClient {
  query(text: string, values?: unknown[]): Promise<PostgresResult>;
  /** Gives it back; with `true` it is closed instead, since its state is unknown. */
  release(broken?: boolean): void;
  /** A connection that is lost while no query runs says so by this event, and ends the process when nobody listens. */
  on(event: "error", listener: (error: Error) => void): unknown;
  off(event: "error", listener: (error: Error) => void): unknown;
}

/** A pool of connections, as `Pool` of the package `pg` has it: what this library needs of one, and no more. */
export interface PostgresPool {
  query(text: string, values?: unknown[]): Promise<PostgresResult>;
  /** Lends a connection. Called back, since a promise would tell a moment too late to listen for its errors: the server may end it in the same breath. */
  connect(callback: (error: Error | undefined, client: PostgresClient | undefined) => void): void;
}

/** By the timers of the system: what is waited for is a network, whatever clock the records have. */
function timely<T>(what: string, limit: number | undefined, answer: Promise<T>): Promise<T> {
  return limit === undefined ? answer : withinDeadline({ clock: systemClock, what, within: limit }, () => answer);
}

// What is lost is noticed by the next query. The pool itself listens only to those that nobody uses.
const ignore = () => {};

function lent(pool: PostgresPool): Promise<PostgresClient> {
  return new Promise((resolve, reject) => {
    pool.connect((error, client) => {
      if (!client) return reject(error);
      client.on("error", ignore);
      resolve(client);
    });
  });
}

/** A connection that came too late for whoever has asked for it. */
function giveBack(client: PostgresClient): void {
  client.off("error", ignore);
  client.release();
}

/**
 * Lends a connection to `work`. One that had an error is closed, which ends its transaction too.
 *
 * @param limit how long the connection and each answer may take, in milliseconds. A connection whose answer did not come in time is closed: a network that was cut
 *   would otherwise hold those of the whole pool for as long as the system takes to notice.
 * @throws DeadlineError
 */
export async function withClient<T>(
  pool: PostgresPool,
  work: (client: Pick<PostgresClient, "query">) => Promise<T>,
  limit?: number,
): Promise<T> {
  const lending = lent(pool);
  const client = await timely("a connection to PostgreSQL", limit, lending).catch((error: unknown) => {
    lending.then(giveBack, ignore);
    throw error;
  });
  let broken = true;
  try {
    const result = await work({ query: (text, values) => timely("a query", limit, client.query(text, values)) });
    broken = false;
    return result;
  } finally {
    client.off("error", ignore);
    client.release(broken);
  }
}
