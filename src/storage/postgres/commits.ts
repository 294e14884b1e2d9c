import pLimit from "p-limit";
import type { Change, Condition } from "../../core/metadata-store.js";
import { currentFormat, type Format, tooNew } from "../sql/formats.js";
import { rowOf } from "../sql/rows.js";
import { changeValues, commitTexts, conditionValues } from "./commit-text.js";
import { beginLocked, lockTimeout } from "./key-locks.js";
import { type PostgresPool, withClient } from "./pool.js";
import { outcomeUnknown, sqlState } from "./postgres-errors.js";

/** Commits to one record wait for each other, with a connection each: reads must find one too, and pools have ten by default. */
const commitLimit = 8;

/** Commits of one store: three round trips each, however many conditions and changes there are. */
export class Commits {
  readonly #pool: PostgresPool;
  readonly #schema: string;
  /** How long an answer may take, in milliseconds: a commit may have waited for others before it begins. */
  readonly #limits: { readonly query: number; readonly commit: number };
  readonly #version: number;
  readonly #texts: ReturnType<typeof commitTexts>;
  readonly #limit = pLimit(commitLimit);

  constructor(pool: PostgresPool, schema: string, known: readonly Format[], limit: number) {
    this.#pool = pool;
    this.#limits = { query: limit, commit: limit + lockTimeout };
    this.#schema = schema;
    this.#version = currentFormat(known).version;
    this.#texts = commitTexts(schema);
  }

  /**
   * A commit as one attempt, which may be made again when its error permits that. Errors are the client's, except when the connection breaks in the
   * middle of COMMIT.
   *
   * @throws RegistryError UNKNOWN for a key that cannot be kept in order.
   */
  prepared(conditions: readonly Condition[], changes: readonly Change[]): () => Promise<boolean> {
    const required = conditionValues(conditions);
    // One statement sees one state of the database: nothing has to be locked to ask.
    if (changes.length === 0) {
      const ask = () => withClient(this.#pool, (client) => client.query(this.#texts.question, required), this.#limits.query);
      return async () => (await ask()).rows.some(holds);
    }
    const begin = beginLocked(this.#schema, conditions, changes);
    const values = [...required, ...changeValues(changes.map(rowOf)), this.#version];
    return () => this.#limit(() => this.#change(begin, values));
  }

  async #change(begin: string, values: unknown[]): Promise<boolean> {
    let unknown: unknown;
    try {
      return await withClient(
        this.#pool,
        async (client) => {
          await client.query(begin);
          const [row] = (await client.query(this.#texts.change, values)).rows as [{ hold: boolean; oldest: number | bigint | string }];
          if (Number(row.oldest) > this.#version) throw tooNew(Number(row.oldest), this.#version);
          await client.query(row.hold ? "COMMIT" : "ROLLBACK").catch((error) => {
            if (row.hold && !isRolledBack(error)) unknown = error;
            throw error;
          });
          return row.hold;
        },
        this.#limits.commit,
      );
    } catch (error) {
      if (unknown === undefined) throw error;
      await this.#settled(begin);
      throw outcomeUnknown(unknown);
    }
  }

  /**
   * Waits until the server has ended a transaction that it may still be working on: its locks are free then. So who looks afterwards sees what came of it.
   * When the server cannot be asked, nobody can look either.
   */
  async #settled(begin: string): Promise<void> {
    const locked = withClient(
      this.#pool,
      async (client) => {
        await client.query(begin);
        await client.query("ROLLBACK");
      },
      this.#limits.commit,
    );
    await locked.catch(() => {});
  }
}

function holds(row: unknown): boolean {
  return (row as { hold: boolean }).hold;
}

/** The server's answer to COMMIT that it was a rollback. Any other error may have come after the fact. */
function isRolledBack(error: unknown): boolean {
  return sqlState(error)?.startsWith("40") ?? false;
}
