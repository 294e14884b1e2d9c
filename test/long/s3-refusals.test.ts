import { randomBytes } from "node:crypto";
import { PutBucketPolicyCommand } from "@aws-sdk/client-s3";
import { isRegistryError, type RegistryError } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { s3BlobStore } from "oci-manifold/storage/s3";
import { beforeAll, expect, test } from "vitest";
import { freePort } from "../interop/processes.js";
import { requires } from "../interop/requires.js";
import { clientFor, createBucket, keys, leftoversIn, type S3Server, startS3 } from "./s3-server.js";

const id = () => randomBytes(16).toString("hex");

async function* bytes(...chunks: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}

/** What went wrong, with everything that a log would show of it. */
async function failure(work: Promise<unknown>): Promise<{ error: RegistryError; all: string }> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!isRegistryError(error)) throw new Error(`not a RegistryError: ${error}`);
  return { error, all: `${error.message} ${JSON.stringify(error.cause)} ${error.cause}` };
}

requires(
  "radosgw",
  "ceph-mon",
  "ceph-osd",
  "ceph",
)("what S3 refuses", () => {
  let server: S3Server;

  beforeAll(async () => {
    server = await startS3();
  });

  test("a bucket that does not exist is named", async () => {
    const client = await clientFor({ endpoint: server.endpoint, ...keys });
    const blobs = s3BlobStore({ client, bucket: "not-there" });
    for (const work of [() => blobs.ready(), () => blobs.stage(id()), () => blobs.list({ limit: 1 })]) {
      const { error } = await failure(work());
      expect([error.code, error.message]).toEqual(["UNAVAILABLE", expect.stringMatching(/bucket not-there does not exist: create it/)]);
    }
  });

  test.each([
    ["an unknown key", { accessKeyId: "whoever", secretAccessKey: "hush-hush" }, /does not accept the credentials/],
    ["a wrong secret", { accessKeyId: "testkey", secretAccessKey: "hush-hush" }, /does not accept the credentials/],
  ])("%s is told without the secret", async (_, credentials, message) => {
    const bucket = await createBucket(await clientFor({ endpoint: server.endpoint, ...keys }));
    const client = await clientFor({ endpoint: server.endpoint, ...credentials });
    const { error, all } = await failure(s3BlobStore({ client, bucket }).ready());
    expect([error.code, error.message]).toEqual(["UNAVAILABLE", expect.stringMatching(message)]);
    expect(error.message).toContain(bucket);
    expect(all).not.toContain("hush-hush");
    expect(all).not.toContain(credentials.accessKeyId);
  });

  test("somebody else's bucket is denied", async () => {
    const bucket = await createBucket(await clientFor({ endpoint: server.endpoint, ...keys }));
    await server.admin("user", "create", "--uid=stranger", "--display-name=s", "--access-key=stranger", "--secret-key=hush-hush");
    const client = await clientFor({ endpoint: server.endpoint, accessKeyId: "stranger", secretAccessKey: "hush-hush" });
    const { error } = await failure(s3BlobStore({ client, bucket }).ready());
    expect([error.code, error.message]).toEqual(["UNAVAILABLE", expect.stringMatching(/is denied .*permit these credentials/)]);
  });

  test.each([["s3:DeleteObject"], ["s3:AbortMultipartUpload"], ["s3:ListBucket", "s3:PutObject"]])(
    "permissions that are missing are named: %s",
    async (...missing) => {
      const owner = await clientFor({ endpoint: server.endpoint, ...keys });
      const bucket = await createBucket(owner);
      const uid = `limited${missing.join("").replace(/[^A-Za-z]/g, "")}`;
      await server.admin("user", "create", `--uid=${uid}`, "--display-name=l", `--access-key=${uid}`, "--secret-key=hush-hush");
      const needed = [
        "ListBucket",
        "ListBucketMultipartUploads",
        "ListMultipartUploadParts",
        "AbortMultipartUpload",
        "GetObject",
        "PutObject",
        "DeleteObject",
      ];
      const policy = (permissions: readonly string[]) => ({
        Version: "2012-10-17",
        Statement: [
          {
            Effect: "Allow",
            Principal: { AWS: [`arn:aws:iam:::user/${uid}`] },
            Action: permissions,
            Resource: [`arn:aws:s3:::${bucket}`, `arn:aws:s3:::${bucket}/*`],
          },
        ],
      });
      const permit = (permissions: readonly string[]) =>
        owner.send(new PutBucketPolicyCommand({ Bucket: bucket, Policy: JSON.stringify(policy(permissions)) }) as never);
      const all = needed.map((name) => `s3:${name}`);
      const client = await clientFor({ endpoint: server.endpoint, accessKeyId: uid, secretAccessKey: "hush-hush" });
      const blobs = s3BlobStore({ client, bucket });
      await permit(all.filter((name) => !missing.includes(name)));
      const { error } = await failure(blobs.ready());
      expect(missing.filter((name) => !error.message.includes(name))).toEqual([]);
      expect(all.filter((name) => !missing.includes(name) && error.message.includes(`${name},`))).toEqual([]);
      await permit(all);
      await blobs.ready();
    },
  );

  test("a server that is not there is unavailable", async () => {
    const client = await clientFor({ endpoint: `http://127.0.0.1:${await freePort()}`, ...keys });
    const { error } = await failure(s3BlobStore({ client, bucket: "images", startTimeout: "0s" }).ready());
    expect([error.code, error.retryAfter]).toEqual(["UNAVAILABLE", 1]);
  });

  test("a used-up quota is no room; what was stored stays, and with room again the upload goes on", async () => {
    const credentials = { accessKeyId: "frugal", secretAccessKey: "frugal-secret" };
    await server.admin("user", "create", "--uid=frugal", "--display-name=f", "--access-key=frugal", "--secret-key=frugal-secret");
    const client = await clientFor({ endpoint: server.endpoint, ...credentials });
    const bucket = await createBucket(client);
    const blobs = s3BlobStore({ client, bucket });
    const quota = (size: number) => server.admin("quota", "set", "--uid=frugal", "--quota-scope=bucket", `--max-size=${size}`);
    await quota(100_000);
    await server.admin("quota", "enable", "--uid=frugal", "--quota-scope=bucket");

    const uploadId = id();
    const staged = await blobs.stage(uploadId);
    // Small: Ceph breaks the connection when it refuses a large body, and its answer may then be lost.
    const data = randomBytes(150_000);
    await staged.append(bytes(data.subarray(0, 50_000)));
    const { error } = await failure(staged.append(bytes(data.subarray(50_000))));
    expect(error.code).toBe("INSUFFICIENT_STORAGE");
    expect(staged.size).toBe(50_000);

    let asked = 0;
    const makeRoom = async () => {
      asked++;
      await quota(1024 * 1024 * 1024);
      // Ceph looks at a changed quota after a while.
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return asked < 60;
    };
    await staged.append(bytes(data.subarray(50_000)), { makeRoom });
    expect(asked).toBeGreaterThan(0);
    const location = await staged.commit(digestOf(data));
    expect((await blobs.list({ limit: 5 })).items).toMatchObject([{ location, size: data.byteLength }]);
    expect(await leftoversIn(client, bucket)).toEqual([]);
  });
});
