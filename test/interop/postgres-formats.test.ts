import { cp, readFile } from "node:fs/promises";
import { localRegistry } from "oci-manifold";
import { fileBlobStore } from "oci-manifold/storage/files";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { beforeAll, expect, test } from "vitest";
import { postgresMetadataOf } from "../../src/storage/postgres/postgres-metadata.js";
import { currentFormat, formats } from "../../src/storage/sql/formats.js";
import { formatFolder, pullEverything, storedFormats } from "../fixtures/formats.js";
import { pushImage } from "../fixtures/images.js";
import { additive, incompatible, lease, putLease } from "../storage/neighbours.js";
import { checkOldReferrers, oldRows } from "../storage/old-referrers.js";
import { hookedPool } from "../storage/postgres-pools.js";
import { dropSchema, newSchema, type PostgresServer, startPostgres } from "./postgres.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

const current = currentFormat(formats).version;
// PostgreSQL came with format 3.
const versions = storedFormats.filter((version) => version >= 3);

requires("initdb", "postgres")("formats in PostgreSQL", () => {
  let server: PostgresServer;
  let pool: ReturnType<PostgresServer["pool"]>;

  beforeAll(async () => {
    server = await startPostgres();
    pool = server.pool();
  });

  const formatIn = async (schema: string) => {
    const { name: _, ...row } = (await pool.query(`SELECT * FROM "${schema}".format`)).rows[0];
    return row;
  };

  const restore = async (version: number) => {
    await dropSchema(pool, "oci_manifold");
    const dump = await readFile(`${formatFolder(version)}/postgres.sql`, "utf8");
    // Settings of the session that pg_dump begins with, and words to psql.
    await pool.query(dump.replace(/^(?:SET|SELECT pg_catalog\.set_config|\\).*$/gm, ""));
  };

  test.each(versions)("gives what format %i left byte for byte, before and after a restart, and takes pushes", async (version) => {
    await restore(version);
    const folder = await temporaryFolder();
    await cp(formatFolder(version), folder, { recursive: true });
    for (let start = 0; start < 2; start++) {
      const storage = { blobs: fileBlobStore(folder), metadata: postgresMetadata({ pool }) };
      await pullEverything(version, storage);
      await pushImage(localRegistry({ storage, name: "release" }), "team/new", `${start}`);
      await Promise.all([storage.metadata.close(), storage.blobs.close()]);
    }
    const { rows } = await pool.query("SELECT version::int FROM oci_manifold.format");
    expect(rows).toEqual([{ version: current }]);
  });

  test("referrers that format 3 left are found by their types, and long annotations in their manifests", async () => {
    await restore(3);
    const [{ last }] = (await pool.query("SELECT last_value::int AS last FROM oci_manifold.versions")).rows;
    const rows = oldRows(last + 1);
    for (const { kind, key, value, version, bytes } of rows) {
      const row = [kind, key, value, version];
      await pool.query("INSERT INTO oci_manifold.records (kind, key, value, version) VALUES ($1, $2, $3, $4)", row);
      if (bytes) await pool.query("INSERT INTO oci_manifold.contents (version, bytes) VALUES ($1, $2)", [version, Buffer.from(bytes)]);
    }
    await pool.query("SELECT setval('oci_manifold.versions', $1)", [last + rows.length]);
    await checkOldReferrers({ blobs: fileBlobStore(await temporaryFolder()), metadata: postgresMetadata({ pool }) });
  });

  test("many nodes that start at once make one database, and migrate it once", async () => {
    const schema = newSchema();
    const start = (known: typeof formats) =>
      Promise.all(
        Array.from({ length: 8 }, async (_, index) => {
          const metadata = postgresMetadataOf(known, { pool: server.pool({ max: 2 }), schema });
          expect(await metadata.commit([], [putLease(`${known.length} ${index}`)])).toBe(true);
        }),
      );
    await start(formats);
    expect(await formatIn(schema)).toEqual({ version: String(current), oldest: String(current) });
    await start(incompatible);
    expect(await formatIn(schema)).toEqual({ version: String(current + 2), oldest: String(current + 2) });
    expect(await postgresMetadataOf(incompatible, { pool, schema }).names({ kind: "lease", under: [], limit: 99 })).toHaveLength(16);
  });

  test("a start waits for one that migrates, whatever limit of time statements have", async () => {
    const schema = newSchema();
    let arrived = () => {};
    const waiting = new Promise<void>((resolve) => {
      arrived = resolve;
    });
    const first = hookedPool(server.pool(), async (text, run) => {
      if (!/CREATE TABLE/.test(text)) return run();
      const second = postgresMetadata({ pool: hasty, schema }).ready();
      await waiting;
      // Longer than the second one's statements may take.
      await pool.query("SELECT pg_sleep(0.5)");
      started.push(second);
      return run();
    });
    const hasty = hookedPool(server.pool({ statement_timeout: 100 }), (text, run) => {
      if (text.startsWith("BEGIN")) arrived();
      return run();
    });
    const started: Promise<void>[] = [];
    await postgresMetadata({ pool: first, schema }).ready();
    await Promise.all(started);
    expect(started).toHaveLength(1);
  });

  test.each([
    ["in the first step", /ADD COLUMN added/, current],
    ["between the steps", /SET added = version/, current + 1],
    ["while the tables are made", /CREATE TABLE/, undefined],
  ])("a migration whose process is killed %s goes on at the next start", async (_, pattern, left) => {
    const schema = newSchema();
    if (left !== undefined) await postgresMetadata({ pool, schema }).commit([], [putLease("a")]);
    const doomed = hookedPool(server.pool(), async (text, run) => {
      const answer = await run();
      // The step was run and not committed: the process dies, and its connection with it.
      if (pattern.test(text)) throw new Error("killed");
      return answer;
    });
    await expect(postgresMetadataOf(incompatible, { pool: doomed, schema }).ready()).rejects.toThrow("killed");
    if (left === undefined) await expect(formatIn(schema)).rejects.toThrow("does not exist");
    else expect(await formatIn(schema)).toMatchObject({ version: String(left) });
    const metadata = postgresMetadataOf(incompatible, { pool, schema });
    await metadata.ready();
    expect(await formatIn(schema)).toEqual({ version: String(current + 2), oldest: String(current + 2) });
    expect(await metadata.names({ kind: "lease", under: [], limit: 9 })).toEqual(left === undefined ? [] : ["a"]);
  });

  test("a neighbour that is one version newer and only adds works beside this one, at the same time", async () => {
    const schema = newSchema();
    const old = postgresMetadata({ pool, schema });
    await old.ready();
    const newer = postgresMetadataOf(additive, { pool: server.pool(), schema });
    const count = async (metadata: typeof old, times: number) => {
      for (let won = 0; won < times; ) {
        const record = await metadata.get(lease("counter"));
        const key = lease("counter");
        const condition = record ? ({ key, is: "version", version: record.version } as const) : ({ key, is: "absent" } as const);
        if (await metadata.commit([condition], [putLease("counter", (record?.value.expiresAt ?? 0) + 1)])) won++;
      }
    };
    await Promise.all([count(old, 40), count(newer, 40)]);
    const again = postgresMetadata({ pool, schema });
    expect((await again.get(lease("counter")))?.value.expiresAt).toBe(80);
    expect(await formatIn(schema)).toEqual({ version: String(current + 1), oldest: String(current) });
  });

  test("an incompatible newer format is refused, at the start and while running, and nothing is written", async () => {
    const schema = newSchema();
    const running = postgresMetadata({ pool, schema });
    await running.commit([], [putLease("a")]);
    const newer = postgresMetadataOf(incompatible, { pool: server.pool(), schema });
    await newer.ready();
    const refusal = {
      code: "UNAVAILABLE",
      message: expect.stringMatching(`newer version.*format ${current + 2}, this version knows ${current}.*update oci-manifold`),
    };
    const late = postgresMetadata({ pool, schema });
    await expect(late.ready()).rejects.toMatchObject(refusal);
    await expect(late.commit([], [putLease("b")])).rejects.toMatchObject(refusal);
    await expect(running.commit([], [putLease("c")])).rejects.toMatchObject(refusal);
    expect(await newer.names({ kind: "lease", under: [], limit: 9 })).toEqual(["a"]);
  });

  test("another program's tables are refused", async () => {
    const schema = newSchema();
    await pool.query(`CREATE SCHEMA "${schema}"; CREATE TABLE "${schema}".format (name text, version int)`);
    const metadata = postgresMetadata({ pool, schema });
    await expect(metadata.ready()).rejects.toThrow("not one of oci-manifold's");
  });
});
