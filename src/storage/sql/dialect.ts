/** What SQLite and PostgreSQL write differently. Everything that is built with it is one text for both. */
export interface Dialect {
  /** A table's full name. */
  table(name: "format" | "records" | "contents"): string;
  /** Text that sorts by bytes, as keys must. */
  readonly text: string;
  /** A whole number of 64 bits. SQLite makes no second index for a primary key that is called INTEGER. */
  readonly integer: string;
  readonly bytes: string;
  /** Follows a table whose rows are to lie in the order of the primary key, where the database can do that. */
  readonly clustered: string;
  /** Makes what gives versions: each once and for ever, also when what it was given for is rolled back after somebody else's was committed. */
  readonly versions: string;
  /** All values of an expression, as one text of JSON; NULL or an empty array when there are none. */
  jsonArray(expression: string): string;
  /** Where a text begins in another, counted from 1; 0 where it does not occur. */
  positionIn(expression: string, part: string): string;
  /** The text at a path of object keys in a text of JSON; NULL where there is none. */
  jsonText(expression: string, path: readonly string[]): string;
  /** A statement whose parameters are written as "?". */
  statement(sql: string): string;
}

export const sqliteDialect: Dialect = {
  table: (name) => name,
  text: "TEXT",
  integer: "INTEGER",
  bytes: "BLOB",
  clustered: "WITHOUT ROWID",
  // The last version given, in a row of its own: there is only one writer at a time anyway.
  versions: `
    CREATE TABLE IF NOT EXISTS sequence (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL);
    INSERT INTO sequence (id, last) VALUES (1, 0) ON CONFLICT DO NOTHING;
  `,
  jsonArray: (expression) => `json_group_array(${expression})`,
  positionIn: (expression, part) => `instr(${expression}, ${part})`,
  jsonText: (expression, path) => `json_extract(${expression}, '$.${path.join(".")}')`,
  statement: (sql) => sql,
};

/** @param schema names the tables in full: a session's search path is nothing to rely on where connections are pooled. */
export function postgresDialect(schema: string): Dialect {
  const qualified = (name: string) => `"${schema}".${name}`;
  return {
    table: qualified,
    text: 'TEXT COLLATE "C"',
    integer: "BIGINT",
    bytes: "BYTEA",
    clustered: "",
    // A row would be locked until the commit, and all commits would wait for each other.
    versions: `CREATE SEQUENCE IF NOT EXISTS ${qualified("versions")};`,
    jsonArray: (expression) => `json_agg(${expression})::text`,
    positionIn: (expression, part) => `strpos(${expression}, ${part})`,
    jsonText: (expression, path) => `(${expression})::json #>> '{${path.join(",")}}'`,
    statement(sql) {
      let count = 0;
      return sql.replaceAll("?", () => `$${++count}`);
    },
  };
}
