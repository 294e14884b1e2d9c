// @ts-check
// The thread that commits: a commit waits for the disk, and the event loop must not. It has its own connection, and takes one group of commits at a time.
// Plain JavaScript without imports of this library: Node 20 cannot start a thread from TypeScript, and the tests run the sources.
import { statSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as wait } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";

/**
 * @import { CommitCondition, CommitFailure, CommitMessage, CommitRequest, CommitStart, GroupAnswer, VersionSpan } from "./commit-messages.js"
 * @import { SqliteDatabase, SqliteStatement } from "./sqlite-driver.js"
 */

/** SQLITE_BUSY and SQLITE_PROTOCOL: another process holds the database. */
const busyCodes = [5, 15];
const busyNames = ["SQLITE_BUSY", "SQLITE_PROTOCOL"];

/** @type {CommitStart} */
const { place, driver, settings, texts, format, patience, gate } = workerData;

/** What it says is in commit-exit.ts. */
const [calling, ending] = [0, 1];
const numbers = new Int32Array(gate);

/**
 * Calls SQLite, unless the process ends.
 *
 * @template T
 * @param {() => T} call
 * @returns {T}
 */
function guarded(call) {
  Atomics.store(numbers, calling, 1);
  try {
    if (Atomics.load(numbers, ending) === 1) throw new Error("the process ends");
    return call();
  } finally {
    Atomics.store(numbers, calling, 0);
    Atomics.notify(numbers, calling);
  }
}

/** @typedef {{ database: SqliteDatabase, statements: Readonly<Record<keyof CommitStart["texts"], SqliteStatement>> }} Open */
/** @type {Open | undefined} */
let opened;

class Left extends Error {}

/** What is committed to a database that was deleted, or replaced by another, is gone with the next start. */
function checkPlace() {
  const stats = statSync(place.path, { bigint: true, throwIfNoEntry: false });
  if (!stats) throw new Left("was deleted");
  if (`${stats.dev} ${stats.ino}` !== place.number) throw new Left("was replaced");
}

/** Opened with the first group: what fails then fails its commits, and is tried again with the next. */
function open() {
  if (opened) return opened;
  const loaded = createRequire(driver.from)(driver.module);
  const Database = driver.member === undefined ? loaded : loaded[driver.member];
  /** @type {SqliteDatabase} */
  checkPlace();
  const database = new Database(place.path);
  try {
    database.exec(settings);
    const prepared = Object.entries(texts).map(([name, sql]) => [name, database.prepare(sql)]);
    opened = { database, statements: Object.fromEntries(prepared) };
    return opened;
  } catch (error) {
    database.close();
    throw error;
  }
}

class FormatTooNew extends Error {
  /** @param {number} needs */
  constructor(needs) {
    super(`the database needs format ${needs}`);
    this.needs = needs;
  }
}

/**
 * All of them in one transaction, and so with one sync of the disk.
 *
 * @param {readonly CommitRequest[]} commits
 * @returns {GroupAnswer}
 */
function transaction(commits) {
  const { database, statements } = open();
  database.exec("BEGIN IMMEDIATE");
  try {
    // A process with a newer version of the library may have brought the database to a format that this one would damage.
    const { oldest } = /** @type {{ oldest: number }} */ (statements.oldest.get());
    if (oldest > format) throw new FormatTooNew(oldest);
    const { last: first } = /** @type {{ last: number }} */ (statements.last.get());
    let last = first;
    const outcomes = commits.map(({ conditions, rows }) => {
      if (!conditions.every((condition) => holds(statements, condition))) return false;
      if (rows.length > 0) last = write(statements, rows);
      return true;
    });
    database.exec("COMMIT");
    checkPlace();
    return { outcomes, spans: last > first ? [[first, last]] : [] };
  } catch (error) {
    try {
      database.exec("ROLLBACK");
    } catch {
      // SQLite has rolled back itself, as it does when the disk is full.
    }
    throw error;
  }
}

/**
 * @param {Open["statements"]} statements
 * @param {CommitCondition} condition
 */
function holds(statements, { kind, key, is, version }) {
  const row = /** @type {{ version: number } | undefined} */ (statements.version.get(kind, key));
  if (is === "absent") return row === undefined;
  return row !== undefined && (is === "present" || row.version === version);
}

/**
 * @param {Open["statements"]} statements
 * @param {CommitRequest["rows"]} rows
 */
function write(statements, rows) {
  // One version for each change, not for the commit: bytes belong to a version, and only one record may have it.
  const [{ last }] = /** @type {[{ last: number }]} */ (statements.reserveVersions.all(rows.length));
  let version = last - rows.length;
  for (const { kind, key, value, bytes } of rows) {
    version += 1;
    statements.dropBytes.run(kind, key);
    if (value === undefined) {
      statements.remove.run(kind, key);
    } else {
      statements.put.run(kind, key, value, version);
      if (bytes) statements.putBytes.run(version, bytes);
    }
  }
  return last;
}

/**
 * The transaction, tried again while another process holds the database.
 *
 * @param {readonly CommitRequest[]} commits
 */
async function patiently(commits) {
  const start = performance.now();
  for (;;) {
    try {
      return guarded(() => transaction(commits));
    } catch (error) {
      if (!isBusy(error) || performance.now() - start > patience) throw error;
    }
    await wait(5 + Math.random() * 20);
  }
}

/**
 * Commits of a group stay independent: when one fails the others are tried again, each alone.
 *
 * @param {readonly CommitRequest[]} commits
 * @returns {Promise<GroupAnswer>}
 */
async function settled(commits) {
  try {
    return await patiently(commits);
  } catch (error) {
    if (commits.length <= 1) return { outcomes: [failureOf(error)], spans: [] };
  }
  /** @type {(boolean | CommitFailure)[]} */
  const outcomes = [];
  /** @type {VersionSpan[]} */
  const spans = [];
  for (const commit of commits) {
    const answer = await settled([commit]);
    outcomes.push(...answer.outcomes);
    spans.push(...answer.spans);
  }
  return { outcomes, spans };
}

/** @param {unknown} error */
function isBusy(error) {
  const { code, errcode } = /** @type {{ code?: unknown, errcode?: unknown }} */ (error ?? {});
  if (typeof errcode === "number" && busyCodes.includes(errcode & 0xff)) return true;
  return typeof code === "string" && busyNames.some((name) => code.startsWith(name));
}

/**
 * @param {unknown} error
 * @returns {CommitFailure}
 */
function failureOf(error) {
  const { code, errcode, needs } = /** @type {{ code?: unknown, errcode?: unknown, needs?: number }} */ (error ?? {});
  const message = error instanceof Error ? error.message : String(error);
  return { message, code, errcode, needs, ...(error instanceof Left && { left: message }) };
}

/**
 * Of the commit that is on its way.
 *
 * @type {CommitRequest[]}
 */
let parts = [];

parentPort?.on("message", async (/** @type {CommitMessage} */ message) => {
  if (message === "close") {
    guarded(() => opened?.database.close());
    parentPort?.close();
  } else if ("part" in message) {
    parts.push(message.part);
  } else {
    const large = { conditions: parts.flatMap(({ conditions }) => conditions), rows: parts.flatMap(({ rows }) => rows) };
    const group = parts.length > 0 ? [large] : message.group;
    parts = [];
    parentPort?.postMessage(await settled(group));
  }
});
