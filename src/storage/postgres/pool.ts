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

/** Lends a connection to `work`. One that had an error is closed, which ends its transaction too. */
export async function withClient<T>(pool: PostgresPool, work: (client: PostgresClient) => Promise<T>): Promise<T> {
  const client = await lent(pool);
  let broken = true;
  try {
    const result = await work(client);
    broken = false;
    return result;
  } finally {
    client.off("error", ignore);
    client.release(broken);
  }
}
