// One node of a registry: layers in S3, records in a folder that the nodes on this machine share. Its place in the environment: S3 is JSON.
import { createServer } from "node:http";
import { S3Client } from "@aws-sdk/client-s3";
import { localRegistry, routes } from "oci-manifold";
import { nodeHandler } from "oci-manifold/node";
import { sqliteMetadata } from "oci-manifold/storage/files";
import { s3BlobStore } from "oci-manifold/storage/s3";

const { endpoint, bucket, folder, port, redirects = false, ...credentials } = JSON.parse(process.env.S3 ?? "{}");
const client = new S3Client({
  endpoint,
  credentials,
  region: "us-east-1",
  forcePathStyle: true,
  requestChecksumCalculation: "WHEN_REQUIRED",
});
const blobs = s3BlobStore({ client, bucket, prefix: "registry", presign: redirects });
const release = localRegistry({ storage: { blobs, metadata: sqliteMetadata(folder) }, name: "release" });
const handler = nodeHandler(routes({ release }), { anonymousWrites: true, redirects });
await handler.ready();
createServer(handler).listen(port, "127.0.0.1");
