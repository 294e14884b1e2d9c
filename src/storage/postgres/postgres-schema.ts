import { RegistryError } from "../../core/errors.js";
import { postgresDialect } from "../sql/dialect.js";
import { currentFormat, type Format, stepsFrom, stepText, usableVersion } from "../sql/formats.js";
import { tablesText } from "../sql/tables.js";
import { beginAlone } from "./key-locks.js";
import { type PostgresPool, withClient } from "./pool.js";

type Queries = Pick<PostgresPool, "query">;

/**
 * Creates schema and tables, or brings them forward: one transaction for each step, which has the store to itself. So several processes may start at once, and
 * what was interrupted goes on at the next start.
 *
 * @throws RegistryError UNAVAILABLE when the database cannot be used, or was written by a newer version of this library that this one cannot work beside.
 */
export async function openSchema(pool: PostgresPool, schema: string, known: readonly Format[], limit: number): Promise<void> {
  const version = await withClient(pool, (client) => storedVersion(client, schema, known), limit);
  if (version !== undefined && version >= currentFormat(known).version) return;
  // A migration takes as long as it takes.
  await withClient(pool, async (client) => {
    while (await step(client, schema, known));
  });
}

/** @returns whether there may be more to do. */
async function step(client: Queries, schema: string, known: readonly Format[]): Promise<boolean> {
  await client.query(beginAlone(schema));
  const version = await storedVersion(client, schema, known);
  const [next] = version === undefined ? [] : stepsFrom(version, known);
  if (version === undefined) await create(client, schema, known);
  else if (next) await client.query(stepText(next, postgresDialect(schema)));
  await client.query("COMMIT");
  return next !== undefined;
}

async function create(client: Queries, schema: string, known: readonly Format[]): Promise<void> {
  const { rows } = await client.query(
    "SELECT getdatabaseencoding() AS encoding, EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1) AS made",
    [schema],
  );
  const [{ encoding, made }] = rows as [{ encoding: string; made: boolean }];
  if (encoding !== "UTF8")
    throw new RegistryError("UNAVAILABLE", `the PostgreSQL database is encoded in ${encoding}: use one that is encoded in UTF8`);
  // Only where it is needed: who may not create schemas may be given one.
  if (!made) await client.query(`CREATE SCHEMA "${schema}"`);
  await client.query(tablesText(postgresDialect(schema), known));
}

async function storedVersion(database: Queries, schema: string, known: readonly Format[]): Promise<number | undefined> {
  // The catalog's rows, and not `to_regclass`, which may answer from a memory that is older than the lock.
  const exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'format') AS made";
  const [{ made }] = (await database.query(exists, [schema])).rows as [{ made: boolean }];
  if (!made) return undefined;
  return usableVersion((await database.query(`SELECT * FROM ${postgresDialect(schema).table("format")}`)).rows[0], known);
}
