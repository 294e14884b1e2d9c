import type { PostgresClient, PostgresPool, PostgresResult } from "oci-manifold/storage/postgres";
import { currentFormat, formatName, formats } from "../../src/storage/sql/formats.js";

const current = String(currentFormat(formats).version);

/** What a query does in place of, or around, what the pool would have done. */
export type Hook = (text: string, run: () => Promise<PostgresResult>) => Promise<PostgresResult>;

export interface HookedPool extends PostgresPool {
  /** Every text that was sent, in order. */
  readonly sent: string[];
  /** Connections that were given back to be closed, and to be used again. */
  readonly released: { broken: number; whole: number };
  /** Connections that are out. */
  readonly out: number;
}

/** A pool whose queries pass a hook first. */
export function hookedPool(pool: PostgresPool, hook: Hook = (_, run) => run()): HookedPool {
  const sent: string[] = [];
  const released = { broken: 0, whole: 0 };
  let out = 0;
  const queries = (inner: Pick<PostgresPool, "query">): PostgresPool["query"] => {
    return (text, values) => {
      sent.push(text);
      return hook(text, () => inner.query(text, values));
    };
  };
  const hooked = (client: PostgresClient): PostgresClient => {
    out++;
    return {
      query: queries(client),
      release(broken) {
        out--;
        if (broken) released.broken++;
        else released.whole++;
        client.release(broken);
      },
      on: (event, listener) => client.on(event, listener),
      off: (event, listener) => client.off(event, listener),
    };
  };
  return {
    sent,
    released,
    get out() {
      return out;
    },
    query: queries(pool),
    connect(callback) {
      pool.connect((error, client) => callback(error, client && hooked(client)));
    },
  };
}

/** A server that has the tables, no records, and says yes to every change. */
export function agreeingPool(format = { name: formatName, version: current, oldest: current }): PostgresPool {
  const query: PostgresPool["query"] = async (text) => {
    if (text.includes("AS made")) return { rows: [{ made: true }] };
    if (text.startsWith("SELECT * FROM")) return { rows: [format] };
    if (text.includes("AS hold")) return { rows: [{ hold: true, oldest: format.oldest }] };
    return { rows: [] };
  };
  return { query, connect: (callback) => callback(undefined, { query, release() {}, on() {}, off() {} }) };
}
