import type { Dialect } from "./dialect.js";

/** The questions, each one look into an index however many records there are. Parameters in the order they are named. */
interface QuestionTexts {
  /** kind, key: `value`, `version`, `bytes` */
  readonly get: string;
  /** kind, from, to, limit: rows of `key`, `value`, `version` */
  readonly page: string;
  /** where the name begins in the key (counted from 1), kind, from, to, limit: `names`, a text of JSON */
  readonly names: string;
}

export function questionTexts({ table, jsonArray, statement }: Dialect): QuestionTexts {
  const records = `${table("records")} AS records`;
  const range = "WHERE kind = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?";
  return {
    get: statement(
      `SELECT value, version, (SELECT bytes FROM ${table("contents")} AS contents WHERE contents.version = records.version) AS bytes FROM ${records} WHERE kind = ? AND key = ?`,
    ),
    page: statement(`SELECT key, value, version FROM ${records} ${range}`),
    // One row: each row that crosses into JavaScript costs more than reading it.
    names: statement(`SELECT ${jsonArray("substr(key, ?)")} AS names FROM (SELECT key FROM ${records} ${range}) AS page`),
  };
}
