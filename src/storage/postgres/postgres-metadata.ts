import { systemClock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import { noEvents, type RuntimeOptions, safeSink } from "../../core/events.js";
import type { MetadataStore, RecordItem, RecordRange, StoredRecord } from "../../core/metadata-store.js";
import type { RecordKey, RecordKind } from "../../core/records.js";
import { type Duration, toMilliseconds } from "../../core/units.js";
import { keyBounds, keyText } from "../key-order.js";
import { Outage } from "../outage.js";
import { postgresDialect } from "../sql/dialect.js";
import { type Format, formats } from "../sql/formats.js";
import { itemOf, namesOf, type PageRow, recordOf, type StoredRow } from "../sql/rows.js";
import { questionTexts } from "../sql/statements.js";
import { started } from "../start.js";
import { persistently } from "./attempts.js";
import { Commits } from "./commits.js";
import { type PostgresPool, withClient } from "./pool.js";
import { openSchema } from "./postgres-schema.js";

export interface PostgresMetadataOptions extends RuntimeOptions {
  /** A `Pool` of the package `pg`. Address, credentials, size and timeouts are its own business; `close` does not end it. */
  readonly pool: PostgresPool;
  /** The schema that holds the tables, created when it is missing. Several stores may share a database, each with its own. Default: `"oci_manifold"`. */
  readonly schema?: string;
  /** How long a connection and each answer may take; a commit may take ten seconds more, while it waits for others. Default: `"10s"`. */
  readonly queryTimeout?: Duration;
  /** How long `ready` waits for a server that does not answer yet. Default: `"60s"`. */
  readonly startTimeout?: Duration;
}

/**
 * Metadata in PostgreSQL, for several machines: what one commits the others read at once, since nothing is kept in memory. Connections are the host's, given as a pool; it is not
 * ended by `close`, and should have a listener for its `error` events. Works through poolers that hand out connections for each transaction. Reads are one query each, commits a
 * transaction of three.
 *
 * @throws RegistryError from its methods: UNAVAILABLE when the server cannot be reached or used, or was written by a newer version of this library that this one cannot
 *   work beside, and when the connection broke while a commit was under way, which may then have been made or not; INSUFFICIENT_STORAGE when the
 *   server's disk is full. UNKNOWN for a schema's name that is none.
 *
 * @example
 * ```ts
 * import { Pool } from "pg";
 * import { postgresMetadata } from "oci-manifold/storage/postgres";
 * const pool = new Pool({ host: "127.0.0.1", database: "registry", max: 20 });
 * pool.on("error", (error) => console.warn("PostgreSQL:", error.message));
 * const metadata = postgresMetadata({ pool });
 * console.log(typeof metadata.commit);
 * ```
 */
export function postgresMetadata(o: PostgresMetadataOptions): MetadataStore {
  return postgresMetadataOf(formats, o);
}

/** As a version of the library that knows these formats would have it: tests play older and newer ones. */
export function postgresMetadataOf(known: readonly Format[], o: PostgresMetadataOptions): MetadataStore {
  const { pool, clock = systemClock } = o;
  const limit = toMilliseconds(o.queryTimeout ?? "10s");
  const outage = new Outage(clock);
  const schema = checkedSchema(o.schema ?? "oci_manifold");
  const texts = questionTexts(postgresDialect(schema));
  const commits = new Commits(pool, schema, known, limit);
  const running = new Set<Promise<unknown>>();
  let opened: Promise<void> | undefined;
  const events = safeSink(o.events ?? noEvents);
  const startLimit = toMilliseconds(o.startTimeout ?? "60s");
  const closing = new AbortController();
  let closed = false;

  const open = (): Promise<void> => {
    if (!opened) {
      opened = persistently(clock, outage, () => openSchema(pool, schema, known, limit), closing.signal);
      // Whoever comes next tries again.
      opened.catch(() => {
        opened = undefined;
      });
    }
    return opened;
  };

  const use = async <T>(attempt: () => Promise<T>): Promise<T> => {
    if (closed) throw new RegistryError("UNAVAILABLE", `the metadata in PostgreSQL (schema ${schema}) is closed`);
    const work = open().then(() => persistently(clock, outage, attempt, closing.signal));
    running.add(work);
    return work.finally(() => running.delete(work));
  };

  const rows = (text: string, values: unknown[]) =>
    use(async () => (await withClient(pool, (client) => client.query(text, values), limit)).rows);

  return {
    async get<K extends RecordKind>(key: RecordKey<K>): Promise<StoredRecord<K> | undefined> {
      const [row] = await rows(texts.get, [key.kind, keyText(key)]);
      return row === undefined ? undefined : (recordOf(row as StoredRow) as StoredRecord<K>);
    },

    async page<K extends RecordKind>(range: RecordRange<K>): Promise<readonly RecordItem<K>[]> {
      const { from, to } = keyBounds(range);
      const found = await rows(texts.page, [range.kind, from, to, Math.max(0, range.limit)]);
      return found.map((row) => itemOf(range, row as PageRow));
    },

    async names(range) {
      const { from, to, nameAt } = keyBounds(range);
      // SQL counts characters from 1.
      const [row] = await rows(texts.names, [nameAt + 1, range.kind, from, to, Math.max(0, range.limit)]);
      return namesOf(row);
    },

    async commit(conditions, changes) {
      return use(commits.prepared(conditions, changes));
    },

    async now() {
      const [row] = await rows("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now", []);
      return Number((row as { now: number | bigint | string }).now);
    },

    ready: () => started({ what: "PostgreSQL", clock, events, limit: startLimit, signal: closing.signal }, () => use(async () => {})),

    async close() {
      closed = true;
      closing.abort();
      await Promise.allSettled(running);
    },
  };
}

/** It becomes part of statements. PostgreSQL cuts longer names short, and keeps those with "pg_" for itself. */
function checkedSchema(name: string): string {
  if (/^(?!pg_)[A-Za-z_][A-Za-z0-9_]{0,62}$/.test(name)) return name;
  throw new RegistryError(
    "UNKNOWN",
    `${JSON.stringify(name)} cannot be a schema's name: it has up to 63 letters, digits and "_", and begins neither with a digit nor with "pg_"`,
  );
}
