import { createHash } from "node:crypto";
import type { Change, Condition } from "../../core/metadata-store.js";
import type { RecordKey } from "../../core/records.js";
import { keyText } from "../key-order.js";

/**
 * A transaction's locks take room in a table of the server that all share: `max_locks_per_transaction` (64) for each connection it permits. With no more than
 * that for each commit it cannot run over. Larger commits lock the whole store.
 */
const keyLimit = 60;
/** For how long a commit waits for others, in milliseconds. Each holds its locks for a few. */
export const lockTimeout = 10_000;
/** How long the server keeps a transaction, and its locks, for a process from which nothing more comes: those that wait get their turn before they give up. */
const idleTimeout = 5_000;

interface Lock {
  readonly id: bigint;
  readonly exclusive: boolean;
}

/**
 * The beginning of a transaction that nobody can disturb: it holds a lock on each record that it changes, and one that it shares with others on each that must
 * stay as it is, whether the record exists or not. Locks are advisory ones that end with the transaction, so poolers may hand connections around. All are taken
 * in one order, so that no two transactions wait for each other. What is read after this statement is what every earlier holder has left.
 *
 * @param schema the store: several may share a database.
 */
export function beginLocked(schema: string, conditions: readonly Condition[], changes: readonly Change[]): string {
  return begin(locksOf(schema, conditions, changes), lockTimeout);
}

/** The beginning of a transaction that has the store to itself: it waits for commits that are under way, however long, and those that come wait for it. */
export function beginAlone(schema: string): string {
  return begin([{ id: lockId(schema, "store"), exclusive: true }], 0, "SET LOCAL statement_timeout = 0");
}

function begin(locks: readonly Lock[], patience: number, ...more: readonly string[]): string {
  const ids = locks.map(({ id }) => id).join();
  const exclusive = locks.map((lock) => lock.exclusive).join();
  return [
    // Only with this level each statement sees what was committed before it, as locks ask for.
    "BEGIN ISOLATION LEVEL READ COMMITTED",
    `SET LOCAL lock_timeout = ${patience}`,
    `SET LOCAL idle_in_transaction_session_timeout = ${idleTimeout}`,
    ...more,
    // What is answered must survive a crash of the server, whatever is the default there.
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'",
    `SELECT CASE WHEN exclusive THEN pg_advisory_xact_lock(id)::text ELSE pg_advisory_xact_lock_shared(id)::text END FROM unnest('{${ids}}'::bigint[], '{${exclusive}}'::bool[]) AS locks (id, exclusive)`,
  ].join("; ");
}

/** The store's own lock first, then those of keys in the order of their ids. */
function locksOf(schema: string, conditions: readonly Condition[], changes: readonly Change[]): Lock[] {
  const store = lockId(schema, "store");
  const idOf = (key: RecordKey) => lockId(schema, `${key.kind} ${keyText(key)}`);
  const keys = new Map<bigint, boolean>();
  for (const { key } of conditions) keys.set(idOf(key), false);
  for (const change of changes) keys.set(idOf("put" in change ? change.put : change.remove), true);
  if (keys.size > keyLimit) return [{ id: store, exclusive: true }];
  const ordered = [...keys].map(([id, exclusive]) => ({ id, exclusive })).sort((a, b) => (a.id < b.id ? -1 : 1));
  return [{ id: store, exclusive: false }, ...ordered];
}

/** Two keys with one id would only wait for each other. */
function lockId(schema: string, what: string): bigint {
  return createHash("sha256").update(`oci-manifold ${schema} ${what}`).digest().readBigInt64BE(0);
}
