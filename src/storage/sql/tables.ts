import type { Dialect } from "./dialect.js";
import { currentFormat, type Format, formatName } from "./formats.js";

/**
 * Creates the tables of the current format. Records lie in the order of their keys where the database can do that, so that a page is one scan. Bytes of up to
 * 4 MiB would make that scan long: they have a table of their own, by the record's version, which no other record ever has.
 */
export function tablesText(dialect: Dialect, known: readonly Format[]): string {
  const { table, text, integer, bytes, clustered, versions } = dialect;
  const { version, oldest } = currentFormat(known);
  return `
    CREATE TABLE IF NOT EXISTS ${table("format")} (name ${text} PRIMARY KEY, version ${integer} NOT NULL, oldest ${integer} NOT NULL);
    CREATE TABLE IF NOT EXISTS ${table("records")} (
      kind ${text} NOT NULL, key ${text} NOT NULL, value ${text} NOT NULL, version ${integer} NOT NULL, PRIMARY KEY (kind, key)
    ) ${clustered};
    CREATE TABLE IF NOT EXISTS ${table("contents")} (version ${integer} PRIMARY KEY, bytes ${bytes} NOT NULL);
    ${versions}
    INSERT INTO ${table("format")} (name, version, oldest) VALUES ('${formatName}', ${version}, ${oldest ?? version}) ON CONFLICT DO NOTHING;
  `;
}
