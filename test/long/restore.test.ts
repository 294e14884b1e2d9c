import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { localRegistry } from "oci-manifold";
import { collectGarbage, scrub } from "oci-manifold/maintenance";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { s3BlobStore } from "oci-manifold/storage/s3";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { type Image, makeImage, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { withoutClock } from "../fixtures/without-clock.js";
import { newSchema, startPostgres } from "../interop/postgres.js";
import { run, temporaryFolder } from "../interop/processes.js";
import { requires } from "../interop/requires.js";
import { clientFor, createBucket, keys, sdk, startS3 } from "./s3-server.js";

const rate = "1TiB";
const day = 24 * 3_600_000;

// The steps of docs/storage.md, "Backup and restore".
requires(
  "radosgw",
  "ceph-mon",
  "ceph-osd",
  "ceph",
  "initdb",
  "postgres",
  "pg_dump",
  "psql",
)("a registry over S3 and PostgreSQL", () => {
  test("is restored from a dump and a bucket's copy, also when it is scrubbed before the copy is complete", async () => {
    const [s3, postgres] = await Promise.all([startS3(), startPostgres()]);
    const client = await clientFor({ endpoint: s3.endpoint, ...keys });
    const [bucket, backup, restored] = [await createBucket(client), await createBucket(client), await createBucket(client)];
    const schema = newSchema();
    const pool = postgres.pool();
    const clock = fakeClock(Date.now());
    const open = (name: string) => {
      const storage = { blobs: s3BlobStore({ client, bucket: name, prefix: "registry" }), metadata: postgresMetadata({ pool, schema }) };
      return { storage, registry: localRegistry({ storage, name: "release", clock }) };
    };
    const first = open(bucket);
    await first.registry.ready();
    const images: Image[] = [];
    for (let i = 0; i < 15; i++) images.push(await pushImage(first.registry, "app", `${i}`, makeImage([2000])));

    const dump = join(await temporaryFolder(), "metadata.sql");
    const database = ["--host=127.0.0.1", `--port=${postgres.port}`, "--username=postgres"];
    await writeFile(dump, await run("pg_dump", [...database, `--schema=${schema}`, "postgres"]));
    const objects = await keysIn(client, bucket);
    await copy(client, bucket, backup, objects);
    await first.registry.close();

    await pool.query(`DROP SCHEMA "${schema}" CASCADE`);
    await run("psql", [...database, "--set=ON_ERROR_STOP=1", "--quiet", `--file=${dump}`, "postgres"]);
    const { storage, registry } = open(restored);
    await registry.ready();
    const some = objects.slice(0, 3);
    await copy(client, backup, restored, some);
    await expect(scrub(storage, { rate, clock })).rejects.toThrow(/27 of 30 blobs are missing.*nothing was changed/s);

    // Somebody scrubs all the same, the copy goes on, and a collection comes before the next scrub.
    expect((await scrub(storage, { rate, clock, maxMissing: 1 })).missing).toHaveLength(27);
    await copy(client, backup, restored, objects.slice(3));
    await clock.advance(3 * day);
    let over = false;
    const collecting = collectGarbage(withoutClock(storage), { clock }).finally(() => {
      over = true;
    });
    while (!over) await clock.advance(61_000);
    expect(await collecting).toMatchObject({ locations: { deleted: 0 }, blobs: { removed: 0 } });
    expect(await scrub(storage, { rate, clock })).toMatchObject({ readopted: 27, missing: [], corrupt: [], lost: [] });
    for (const { blobs } of images)
      for (const [digest, bytes] of blobs)
        expect((await bytesOf(await registry.getBlob("app", digest))).equals(Buffer.from(bytes))).toBe(true);
    await registry.close();
  }, 300_000);
});

type Client = Awaited<ReturnType<typeof clientFor>>;

async function keysIn(client: Client, bucket: string): Promise<string[]> {
  const { ListObjectsV2Command } = await sdk();
  const answer = (await client.send(new ListObjectsV2Command({ Bucket: bucket } as never) as never)) as { Contents?: { Key: string }[] };
  return (answer.Contents ?? []).map(({ Key }) => Key).filter((key) => key.startsWith("registry/blobs/"));
}

async function copy(client: Client, from: string, to: string, objects: readonly string[]): Promise<void> {
  const { CopyObjectCommand } = await sdk();
  for (const key of objects)
    await client.send(new CopyObjectCommand({ Bucket: to, Key: key, CopySource: `${from}/${key}` } as never) as never);
}
