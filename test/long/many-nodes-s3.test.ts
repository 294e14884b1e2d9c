import { test } from "vitest";
import { manyNodes } from "../chaos/many-nodes.js";
import { newSchema, startPostgres } from "../interop/postgres.js";
import { requires } from "../interop/requires.js";
import { clientFor, createBucket, keys, startS3 } from "./s3-server.js";

requires(
  "radosgw",
  "ceph-mon",
  "ceph-osd",
  "ceph",
  "initdb",
  "postgres",
)("several processes over S3 and PostgreSQL", () => {
  test("two of three are killed: they take and give 200 images and lose none, and a moved tag is seen at once", async () => {
    const [s3, postgres] = await Promise.all([startS3("blue"), startPostgres()]);
    const client = await clientFor({ endpoint: s3.endpoint, ...keys });
    const bucket = await createBucket(client);
    const database = { host: "127.0.0.1", port: postgres.port, user: "postgres", database: "postgres" };
    const where = { endpoint: s3.endpoint, bucket, credentials: keys, database, schema: newSchema() };
    await manyNodes({ storage: { kind: "s3+postgres", ...where }, images: 200, seesAtOnce: true });
  }, 1_800_000);
});
