import type { Condition } from "../../core/metadata-store.js";
import { keyText } from "../key-order.js";
import { postgresDialect } from "../sql/dialect.js";
import type { ChangedRow } from "../sql/rows.js";

/** The texts that commit, whatever their number of conditions and changes: these go in as arrays. */
interface CommitTexts {
  /** Conditions: one row with `hold`. */
  readonly question: string;
  /**
   * Conditions, then changes, then the format this library knows: one row with `hold` and `oldest`. Changes are made when both permit. A process with a newer
   * version of the library may have brought the database to a format that this one would damage.
   */
  readonly change: string;
}

export function commitTexts(schema: string): CommitTexts {
  const { table } = postgresDialect(schema);
  const [records, contents] = [table("records"), table("contents")];
  // Sub-queries for each key, and no join: they are looks into an index whatever the statistics say.
  const version = `(SELECT records.version FROM ${records} AS records WHERE records.kind = given.kind AND records.key = given.key)`;
  const checked = `
    SELECT coalesce(bool_and(CASE state WHEN 'absent' THEN stored IS NULL WHEN 'present' THEN stored IS NOT NULL ELSE stored IS NOT DISTINCT FROM version END), true) AS hold
    FROM (SELECT state, version, ${version} AS stored FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS given (kind, key, state, version)) AS conditions`;
  return {
    question: checked,
    // All parts see the tables as they were before; that is why bytes can be found by the version they had.
    change: `
      WITH checked AS (${checked}),
      judged AS (SELECT hold, oldest, hold AND oldest <= $9::bigint AS permitted FROM checked, ${table("format")}),
      changes AS MATERIALIZED (
        SELECT kind, key, value, bytes, nextval('"${schema}".versions') AS now, ${version} AS before
        FROM unnest($5::text[], $6::text[], $7::text[], $8::bytea[]) AS given (kind, key, value, bytes)
        WHERE (SELECT permitted FROM judged)
      ),
      dropped AS (DELETE FROM ${contents} WHERE version IN (SELECT before FROM changes)),
      removed AS (
        DELETE FROM ${records} AS records USING changes
        WHERE records.kind = changes.kind AND records.key = changes.key AND changes.value IS NULL
      ),
      put AS (
        INSERT INTO ${records} (kind, key, value, version) SELECT kind, key, value, now FROM changes WHERE value IS NOT NULL
        ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, version = excluded.version
      ),
      stored AS (INSERT INTO ${contents} (version, bytes) SELECT now, bytes FROM changes WHERE bytes IS NOT NULL)
      SELECT hold, oldest FROM judged`,
  };
}

export function conditionValues(conditions: readonly Condition[]): unknown[] {
  return [
    conditions.map(({ key }) => key.kind),
    conditions.map(({ key }) => keyText(key)),
    conditions.map(({ is }) => is),
    conditions.map((condition) => (condition.is === "version" ? condition.version : null)),
  ];
}

/** The last of several changes to one key counts, as when they are made one after the other. */
export function changeValues(rows: readonly ChangedRow[]): unknown[] {
  const last = [...new Map(rows.map((row) => [`${row.kind} ${row.key}`, row])).values()];
  return [
    last.map(({ kind }) => kind),
    last.map(({ key }) => key),
    last.map(({ value }) => value ?? null),
    last.map(({ bytes }) => bytes ?? null),
  ];
}
