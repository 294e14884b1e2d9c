// One process of several that serve the same registries: a local one, and a cache of an upstream. Where they store is said by the environment: NODE is JSON.
import { createServer } from "node:http";
import { cached, localRegistry, remoteRegistry, routes } from "oci-manifold";
import { nodeHandler, tuneServer } from "oci-manifold/node";

const { port, upstream, storage: where } = JSON.parse(process.env.NODE ?? "{}");

const storages = {
  async files({ folder }) {
    const { fileStorage } = await import("oci-manifold/storage/files");
    return fileStorage(folder);
  },
  async "s3+postgres"({ bucket, endpoint, credentials, database, schema }) {
    const { S3Client } = await import("@aws-sdk/client-s3");
    const { Pool } = await import("pg");
    const { s3BlobStore } = await import("oci-manifold/storage/s3");
    const { postgresMetadata } = await import("oci-manifold/storage/postgres");
    const region = { region: "us-east-1", forcePathStyle: true, requestChecksumCalculation: "WHEN_REQUIRED" };
    const client = new S3Client({ endpoint, credentials, ...region, maxAttempts: 5 });
    const pool = new Pool({ ...database, max: 20 });
    pool.on("error", (error) => console.error("PostgreSQL:", error.message));
    return { blobs: s3BlobStore({ client, bucket }), metadata: postgresMetadata({ pool, schema }) };
  },
};

const events = { emit: (type, event) => type === "fault" && console.error(JSON.stringify(event)) };
const storage = await storages[where.kind](where);
const release = localRegistry({ storage, name: "release", events });
const hub = cached(remoteRegistry(upstream), { storage, name: "hub", events });
const handler = nodeHandler(routes({ release, hub }), { anonymousWrites: true, events });
await handler.ready();
tuneServer(createServer(handler)).listen(port, "127.0.0.1");
