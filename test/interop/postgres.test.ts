import { chunksOf, digestOf, localRegistry, orThrow, type Registry } from "oci-manifold";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryBlobStore } from "oci-manifold/storage/memory";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { metadataStoreContract } from "oci-manifold/testing";
import { beforeAll, describe, expect, test } from "vitest";
import { postgresMetadataOf } from "../../src/storage/postgres/postgres-metadata.js";
import { currentFormat, formats } from "../../src/storage/sql/formats.js";
import { makeIndex, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { countedRegistry, fillRecords } from "../storage/counted-queries.js";
import { additive, incompatible, lease, putLease } from "../storage/neighbours.js";
import { hookedPool } from "../storage/postgres-pools.js";
import { dropSchema, newSchema, type PostgresServer, startPostgres } from "./postgres.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

const current = currentFormat(formats).version;

requires("initdb", "postgres")("PostgreSQL", () => {
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

  describe("a pool of ten", () => {
    const create = async () => {
      const schema = newSchema();
      return { store: postgresMetadata({ pool, schema }), dispose: () => dropSchema(pool, schema) };
    };
    metadataStoreContract({ test, create });
  });

  describe.each(["memory", "files"])("a registry of two nodes, with blobs in %s", (kind) => {
    let one: Registry;
    let other: Registry;

    beforeAll(async () => {
      const schema = newSchema();
      const blobs = kind === "memory" ? memoryBlobStore() : fileBlobStore(await temporaryFolder());
      const node = () =>
        localRegistry({ storage: { blobs, metadata: postgresMetadata({ pool: server.pool(), schema }) }, name: "release" });
      one = node();
      other = node();
      await Promise.all([one.ready(), other.ready()]);
    });

    test("takes images on one and gives them on the other, byte by byte", async () => {
      const images = [await pushImage(one, "team/app", "amd64"), await pushImage(one, "team/app", "arm64")];
      const index = makeIndex(images);
      await other.putManifest("team/app", "1.0", { bytes: index.bytes });
      for (const registry of [one, other]) {
        expect(digestOf(orThrow(await registry.getManifest("team/app", "1.0")).bytes)).toBe(index.digest);
        for (const image of images) {
          expect(Buffer.from(orThrow(await registry.getManifest("team/app", image.digest)).bytes)).toEqual(Buffer.from(image.manifest));
          for (const digest of image.blobs.keys()) expect(digestOf(await bytesOf(await registry.getBlob("team/app", digest)))).toBe(digest);
        }
        expect(orThrow(await registry.listTags("team/app", { limit: 10 })).items).toEqual(["1.0", "amd64", "arm64"]);
      }
    });

    test("moves a tag on one, which the other sees at once", async () => {
      for (let round = 0; round < 20; round++) {
        const [from, to] = round % 2 === 0 ? [one, other] : [other, one];
        const { digest } = await pushImage(from, "team/moving", "latest");
        expect(orThrow(await to.resolveManifest("team/moving", "latest")).digest).toBe(digest);
      }
    });

    test("goes on at one with an upload that was begun at the other", async () => {
      const layer = Buffer.alloc(300_000, "layer");
      const begun = await one.startUpload("team/app");
      await begun.append(chunksOf(layer.subarray(0, 100_000)));
      const resumed = await other.resumeUpload("team/app", begun.id);
      expect(resumed.offset).toBe(100_000);
      await resumed.append(chunksOf(layer.subarray(100_000)));
      await resumed.commit(digestOf(layer));
      expect(digestOf(await bytesOf(await one.getBlob("team/app", digestOf(layer))))).toBe(digestOf(layer));
    });

    test("moves a contested tag once", async () => {
      const first = await pushImage(one, "team/contested", "latest");
      const images = await Promise.all(
        Array.from({ length: 6 }, (_, index) => pushImage(index % 2 ? one : other, "team/contested", `c${index}`)),
      );
      const outcomes = await Promise.allSettled(
        images.map((image, index) =>
          (index % 2 ? one : other).putManifest("team/contested", "latest", { bytes: image.manifest }, { ifMatch: first.digest }),
        ),
      );
      const won = outcomes.flatMap(({ status }, index) => (status === "fulfilled" ? [images[index]?.digest] : []));
      expect(won).toHaveLength(1);
      expect(orThrow(await one.resolveManifest("team/contested", "latest")).digest).toBe(won[0]);
      for (const outcome of outcomes)
        if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "PRECONDITION_FAILED" });
    });

    test("deletes", async () => {
      const image = await pushImage(one, "team/gone", "1");
      await other.deleteManifest("team/gone", image.digest);
      expect((await one.getManifest("team/gone", "1")).kind).toBe("absent");
      expect(orThrow(await one.listRepositories({ limit: 10 })).items).not.toContain("team/gone");
    });
  });

  test("what requests cost does not grow with the records", async () => {
    const schema = newSchema();
    const { counts } = countedRegistry(pool, schema);
    const few = await counts();
    await fillRecords(pool, schema, 3000);
    expect(await counts()).toEqual(few);
    expect(few).toEqual({ head: 2, pullByTag: 2, blob: 2, pushOfManifest: 10, pushOfBlob: 5, tagsPage: 1, catalogPage: 1 });
    await dropSchema(pool, schema);
  });

  describe("formats", () => {
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

  describe("what is wrong with the server is told", () => {
    test("when it is away, and forgotten when it is back", async () => {
      const mine = await startPostgres();
      const metadata = postgresMetadata({ pool: mine.pool({ password: "hush-hush" }) });
      await metadata.commit([], [putLease("a")]);
      await mine.stop();
      const away = { code: "UNAVAILABLE", message: expect.stringMatching(/does not answer .*check that it runs/) };
      for (const work of [() => metadata.get(lease("a")), () => metadata.commit([], [putLease("b")])]) {
        const error = await work().catch((reason: unknown) => reason);
        expect(error).toMatchObject(away);
        expect(String(Object(error).message) + String(Object(error).cause)).not.toContain("hush");
      }
      await mine.start();
      expect((await metadata.get(lease("a")))?.value.holder).toBe("h");
      expect(await metadata.commit([], [putLease("b")])).toBe(true);
    });

    test("when it has no connection left", async () => {
      const mine = await startPostgres();
      await mine.pool().query("ALTER SYSTEM SET max_connections = 6");
      await mine.pool().query("ALTER SYSTEM SET superuser_reserved_connections = 0");
      await mine.stop();
      await mine.start();
      const taken = mine.pool({ max: 6 });
      const clients = await Promise.all(Array.from({ length: 6 }, () => taken.connect()));
      const metadata = postgresMetadata({ pool: mine.pool() });
      await expect(metadata.ready()).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringMatching(/no more connections/) });
      for (const client of clients) client.release();
      await taken.end();
      await metadata.ready();
    });

    test("when the database is another's, or the role may do nothing", async () => {
      await expect(postgresMetadata({ pool: server.pool({ database: "elsewhere" }) }).ready()).rejects.toMatchObject({
        code: "UNAVAILABLE",
        message: expect.stringMatching(/3D000.*correct the pool's settings/),
      });
      await pool.query("CREATE ROLE stranger LOGIN");
      const stranger = server.pool({ user: "stranger" });
      const schema = newSchema();
      await expect(postgresMetadata({ pool: stranger, schema }).ready()).rejects.toMatchObject({
        code: "UNAVAILABLE",
        message: expect.stringMatching(/42501.*permissions/),
      });
      // A schema of its own is enough.
      await pool.query(`CREATE SCHEMA "${schema}" AUTHORIZATION stranger`);
      expect(await postgresMetadata({ pool: stranger, schema }).commit([], [putLease("a")])).toBe(true);
      // One that was made by another needs these.
      const granted = newSchema();
      await postgresMetadata({ pool, schema: granted }).ready();
      await expect(postgresMetadata({ pool: stranger, schema: granted }).ready()).rejects.toMatchObject({ code: "UNAVAILABLE" });
      await pool.query(`GRANT USAGE ON SCHEMA "${granted}" TO stranger`);
      await pool.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "${granted}" TO stranger`);
      await pool.query(`GRANT USAGE ON ALL SEQUENCES IN SCHEMA "${granted}" TO stranger`);
      expect(await postgresMetadata({ pool: stranger, schema: granted }).commit([], [putLease("a")])).toBe(true);
    });

    test("when it is not encoded in UTF-8", async () => {
      await pool.query("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0");
      await expect(postgresMetadata({ pool: server.pool({ database: "latin" }) }).ready()).rejects.toThrow(
        /encoded in LATIN1: use one .* UTF8/,
      );
    });

    test("when it takes no writes", async () => {
      const schema = newSchema();
      await postgresMetadata({ pool, schema }).ready();
      const standby = postgresMetadata({ pool: server.pool({ options: "-c default_transaction_read_only=on" }), schema });
      expect(await standby.get(lease("a"))).toBeUndefined();
      await expect(standby.commit([], [putLease("a")])).rejects.toMatchObject({
        code: "UNAVAILABLE",
        message: expect.stringMatching(/25006.*primary/),
      });
    });

    test("when others hold a record for longer than the role may wait", async () => {
      const schema = newSchema();
      let go = () => {};
      let begun = () => {};
      const holding = new Promise<void>((resolve) => {
        begun = resolve;
      });
      const slow = hookedPool(pool, async (text, run) => {
        if (text === "COMMIT") {
          begun();
          await new Promise<void>((resolve) => {
            go = resolve;
          });
        }
        return run();
      });
      const metadata = postgresMetadata({ pool, schema });
      await metadata.ready();
      const first = postgresMetadata({ pool: slow, schema }).commit([], [putLease("a")]);
      await holding;
      const hasty = postgresMetadata({ pool: server.pool({ statement_timeout: 200 }), schema });
      await expect(hasty.commit([{ key: lease("a"), is: "present" }], [putLease("b")])).rejects.toMatchObject({
        code: "UNAVAILABLE",
        retryAfter: 1,
        message: expect.stringMatching(/took too long/),
      });
      go();
      expect(await first).toBe(true);
    });
  });
});
