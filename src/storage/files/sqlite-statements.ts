import { sqliteDialect } from "../sql/dialect.js";
import { questionTexts } from "../sql/statements.js";
import type { SqliteDatabase, SqliteStatement } from "./sqlite-driver.js";

/** The last version that was given, by whichever process. */
const last = "SELECT last FROM sequence WHERE id = 1";

/** What the thread that commits runs. */
export const sqliteCommitTexts = {
  last,
  /** The oldest format that may write; older ones have not said. */
  oldest: "SELECT oldest FROM format",
  version: "SELECT version FROM records WHERE kind = ? AND key = ?",
  reserveVersions: "UPDATE sequence SET last = last + ? WHERE id = 1 RETURNING last",
  put: "INSERT INTO records (kind, key, value, version) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value, version = excluded.version",
  remove: "DELETE FROM records WHERE kind = ? AND key = ?",
  putBytes: "INSERT INTO contents (version, bytes) VALUES (?, ?)",
  dropBytes: "DELETE FROM contents WHERE version = (SELECT version FROM records WHERE kind = ? AND key = ?)",
} as const;

const readTexts = { last, ...questionTexts(sqliteDialect) };

export type Statements = Readonly<Record<keyof typeof readTexts, SqliteStatement>>;

/** Every statement of a connection that reads, prepared once: preparing costs several times a point read. */
export function statementsOf(database: SqliteDatabase): Statements {
  const prepared = Object.entries(readTexts).map(([name, sql]) => [name, database.prepare(sql)]);
  return Object.fromEntries(prepared) as Statements;
}
