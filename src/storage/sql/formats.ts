import { RegistryError } from "../../core/errors.js";
import type { Dialect } from "./dialect.js";

export const formatName = "oci-manifold.metadata";

/** One version of how records are stored. */
export interface Format {
  readonly version: number;
  /**
   * The oldest format whose code may read and write a database of this one. Lower than `version` where a change only adds what older code does not look at:
   * two neighbouring versions of this library then share the database while machines are updated one by one. Unwritten before format 3.
   */
  readonly oldest?: number;
  /** Brings a database of the version before to this one. Run within one transaction, which also writes down the new version. */
  readonly migration: (dialect: Dialect) => string;
}

/** All there were, in order. A database is created with the tables of the last (`tables.ts`). PostgreSQL came with format 3: it has no older ones. */
export const formats: readonly Format[] = [
  { version: 1, migration: () => "" },
  {
    version: 2,
    // The keys of links by digest began with the registry: eviction has to find those of all registries.
    migration: () => `
      UPDATE records SET key = substr(rest, 1, at - 1) || char(1) || registry || char(1) || substr(rest, at + 1)
      FROM (
        SELECT key AS old, registry, rest, instr(rest, char(1)) AS at
        FROM (SELECT key, substr(key, 1, instr(key, char(1)) - 1) AS registry, substr(key, instr(key, char(1)) + 1) AS rest FROM records WHERE kind = 'linkByDigest')
      )
      WHERE kind = 'linkByDigest' AND key = old;
    `,
  },
  {
    version: 3,
    oldest: 3,
    // Formats say from here on who may still work with them.
    migration: ({ table, integer }) => `ALTER TABLE ${table("format")} ADD COLUMN oldest ${integer} NOT NULL DEFAULT 3;`,
  },
  {
    version: 4,
    // Older code would neither write the referrers by type nor find long annotations.
    oldest: 4,
    migration: referrersByType,
  },
];

/**
 * Cuts annotations off the records of referrers where they are long, and adds the referrers by type. Done by text, since PostgreSQL takes no JSON with a NUL
 * in it, which an annotation may have: what stands before the annotations is plain, and in it only the names of fields have quotes that are not escaped.
 */
function referrersByType({ table, positionIn, jsonText }: Dialect): string {
  const records = table("records");
  const annotations = `',"annotations":{'`;
  const found = positionIn("value", annotations);
  const beforeAnnotations = `substr(value, 1, ${found} - 1)`;
  return `
    UPDATE ${records} SET value = ${beforeAnnotations} || '},"annotated":true}' WHERE kind = 'referrer' AND length(value) > 2000 AND ${found} > 0;
    INSERT INTO ${records} (kind, key, value, version)
    SELECT 'referrerByType', substr(key, 1, length(key) - length(digest)) || artifact_type || '\u0001' || digest, value, version
    FROM (
      SELECT key, value, version, ${jsonText("head", ["descriptor", "digest"])} AS digest, ${jsonText("head", ["descriptor", "artifactType"])} AS artifact_type
      FROM (
        SELECT key, value, version, CASE WHEN ${found} > 0 THEN ${beforeAnnotations} || '}}' ELSE value END AS head
        FROM ${records} WHERE kind = 'referrer'
      ) AS heads
    ) AS referrers
    WHERE artifact_type IS NOT NULL;
  `;
}

/** The format of this version of the library. */
export function currentFormat(known: readonly Format[]): Format {
  const last = known.at(-1);
  if (!last) throw new Error("no format is known");
  return last;
}

/** The steps from a stored version to the current one. */
export function stepsFrom(version: number, known: readonly Format[]): readonly Format[] {
  return known.filter((format) => format.version > version);
}

/** What a step runs: its migration, and the new version in the place of the old. */
export function stepText(format: Format, dialect: Dialect): string {
  const oldest = format.oldest === undefined ? "" : `, oldest = ${format.oldest}`;
  return `${format.migration(dialect)} UPDATE ${dialect.table("format")} SET version = ${format.version}${oldest};`;
}

/**
 * The version that a database says it has, when this library can work with it: it is of this version, an older one that can be brought forward, or a newer
 * one that says that this one will do.
 *
 * @param row of the table `format`, in which older formats have no `oldest`.
 * @throws RegistryError UNAVAILABLE for any other.
 */
export function usableVersion(row: unknown, known: readonly Format[]): number {
  const { name, version, oldest } = (row ?? {}) as { name?: unknown; version?: unknown; oldest?: unknown };
  const current = currentFormat(known).version;
  const stored = Number(version);
  if (name !== formatName || !(stored >= 1)) {
    throw new RegistryError(
      "UNAVAILABLE",
      `the database is not one of oci-manifold's (its format is ${row ? `${name} ${version}` : "unknown"})`,
    );
  }
  if (stored > current && !(Number(oldest ?? stored) <= current)) throw tooNew(stored, current);
  return stored;
}

/** @param needed the format that a library must know to work with the database. */
export function tooNew(needed: number, current: number): RegistryError {
  return new RegistryError(
    "UNAVAILABLE",
    `the metadata was written by a newer version of oci-manifold (format ${needed}, this version knows ${current}): update oci-manifold`,
  );
}
