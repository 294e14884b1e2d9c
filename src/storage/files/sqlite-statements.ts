import type { SqliteDatabase, SqliteStatement } from "./sqlite-driver.js";

// Every statement the store runs, prepared once for each connection: preparing costs several times a point read.
const texts = {
  dataVersion: "PRAGMA data_version",
  get: "SELECT value, version, (SELECT bytes FROM contents WHERE contents.version = records.version) AS bytes FROM records WHERE kind = ? AND key = ?",
  page: "SELECT key, value, version FROM records WHERE kind = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?",
  // One row: each row that crosses into JavaScript costs more than reading it.
  names:
    "SELECT json_group_array(substr(key, ?)) AS names FROM (SELECT key FROM records WHERE kind = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?)",
  version: "SELECT version FROM records WHERE kind = ? AND key = ?",
  reserveVersions: "UPDATE sequence SET last = last + ? WHERE id = 1 RETURNING last",
  put: "INSERT INTO records (kind, key, value, version) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value, version = excluded.version",
  remove: "DELETE FROM records WHERE kind = ? AND key = ?",
  putBytes: "INSERT INTO contents (version, bytes) VALUES (?, ?)",
  dropBytes: "DELETE FROM contents WHERE version = (SELECT version FROM records WHERE kind = ? AND key = ?)",
} as const;

export type Statements = Readonly<Record<keyof typeof texts, SqliteStatement>>;

export function statementsOf(database: SqliteDatabase): Statements {
  const prepared = Object.entries(texts).map(([name, sql]) => [name, database.prepare(sql)]);
  return Object.fromEntries(prepared) as Statements;
}
