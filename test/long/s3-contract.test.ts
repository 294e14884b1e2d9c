import { randomBytes } from "node:crypto";
import type { Readable } from "node:stream";
import { allPages } from "oci-manifold";
import { s3BlobStore } from "oci-manifold/storage/s3";
import { blobStoreContract } from "oci-manifold/testing";
import { beforeAll, describe, expect, test } from "vitest";
import { listening } from "../http/support.js";
import { modelledUploads } from "../http/upload-model.js";
import { requires } from "../interop/requires.js";
import { freshForEveryCall } from "../storage/fresh-for-every-call.js";
import { bytesOf } from "../storage/s3-support.js";
import { clientFor, createBucket, keys, leftoversIn, type S3Server, sdk, startS3 } from "./s3-server.js";

requires(
  "radosgw",
  "ceph-mon",
  "ceph-osd",
  "ceph",
)("S3 by Ceph", () => {
  let server: S3Server;
  let client: Awaited<ReturnType<typeof clientFor>>;
  let bucket: string;
  let otherBucket: string;

  beforeAll(async () => {
    server = await startS3();
    client = await clientFor({ endpoint: server.endpoint, ...keys });
    bucket = await createBucket(client);
    otherBucket = await createBucket(client);
  });

  const store = (prefix: string, presign = false) => s3BlobStore({ client, bucket, prefix, presign });
  const newPrefix = () => randomBytes(6).toString("hex");
  /** What the sweep does. */
  const discardAll = async (prefix: string) => {
    const blobs = store(prefix);
    for await (const { id } of allPages((page) => blobs.listStaged(page))) await blobs.discardStaged(id);
  };

  /** In a bucket of another program, under a name that has to be encoded. */
  const foreign = async (data: Uint8Array) => {
    const key = `other é+%/?#&= ${newPrefix()}/data`;
    const { DeleteObjectCommand, GetObjectCommand, PutObjectCommand } = await sdk();
    const send = (command: object) => client.send(command as never);
    await send(new PutObjectCommand({ Bucket: otherBucket, Key: key, Body: data } as never));
    return {
      source: { kind: "object", bucket: otherBucket, key } as const,
      read: async () => {
        const { Body } = (await send(new GetObjectCommand({ Bucket: otherBucket, Key: key } as never))) as { Body: Readable };
        return bytesOf(Body);
      },
      remove: async () => void (await send(new DeleteObjectCommand({ Bucket: otherBucket, Key: key } as never))),
    };
  };

  describe("one node", () => {
    const create = async () => {
      const prefix = newPrefix();
      return { store: store(prefix, true), dispose: () => discardAll(prefix) };
    };
    blobStoreContract({ test, capabilities: { presign: true }, create, foreign });
  });

  describe("another node for every request", () => {
    const create = async () => {
      const prefix = `odd name é+%/${newPrefix()}`;
      return { store: freshForEveryCall(() => store(prefix)), dispose: () => discardAll(prefix) };
    };
    blobStoreContract({ test, create, foreign });
  });

  test("100 histories of uploads through two handlers", async () => {
    const prefixes: string[] = [];
    const fresh = () => {
      prefixes.push(newPrefix());
      return store(prefixes.at(-1) ?? "");
    };
    await modelledUploads(fresh, listening, 100);
    for (const prefix of prefixes) await discardAll(prefix);
  });

  test("nothing is left behind once uploads were committed or discarded", async () => {
    expect(await leftoversIn(client, bucket)).toEqual([]);
  });
});
