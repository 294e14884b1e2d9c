import { randomBytes, randomInt } from "node:crypto";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { S3ClientLike, S3Sdk } from "oci-manifold/storage/s3";
import { atEnd, RunningProcess, run, temporaryFolder } from "../interop/processes.js";

const script = fileURLToPath(new URL("../interop/start-s3.sh", import.meta.url));

export interface S3Server {
  readonly endpoint: string;
  /** Ceph's own tool for users and quotas. */
  readonly admin: (...args: string[]) => Promise<string>;
}

export interface S3Access {
  readonly endpoint: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export const keys = { accessKeyId: "testkey", secretAccessKey: "testsecret" };

type Client = S3ClientLike & { destroy(): void };
type FullSdk = S3Sdk & {
  readonly S3Client: new (o: object) => Client;
  readonly CreateBucketCommand: new (input: object) => object;
};

const clientPackage = "@aws-sdk/client-s3";
export const sdk = (): Promise<FullSdk> => import(clientPackage);

/**
 * A port for the gateway with those that the script gives to its monitor, 1,000 and 1,001 above. Below those that systems give to outgoing connections: with one
 * of them on its port the monitor does not start, and everything else waits for it.
 */
async function portWithMonitors(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 30_000);
    if ((await Promise.all([port, port + 1000, port + 1001].map(isFree))).every(Boolean)) return port;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** Ceph's S3 gateway with a store of its own: in memory, or in a file. */
export async function startS3(store: "mem" | "blue" = "mem"): Promise<S3Server> {
  const folder = join(await temporaryFolder(), "s3");
  const port = await portWithMonitors();
  const start = new RunningProcess("bash", ["-c", `"$0" "$@" >"${folder}.out" 2>&1`, script, folder, String(port), store]);
  atEnd(() => run("bash", ["-c", `for file in "${folder}"/*.pid; do kill -9 "$(cat "$file")"; done; sleep 0.5`]));
  const code = await start.exited;
  if (code !== 0) throw new Error(`start-s3.sh ended with ${code}: ${await run("tail", ["-20", `${folder}.out`])}`);
  const admin = (...args: string[]) => run("radosgw-admin", ["-c", join(folder, "ceph.conf"), "-n", "client.rgw", ...args]);
  return { endpoint: `http://127.0.0.1:${port}`, admin };
}

export async function clientFor(access: S3Access): Promise<Client> {
  const { S3Client } = await sdk();
  const { endpoint, ...credentials } = access;
  const settings = { region: "us-east-1", forcePathStyle: true, requestChecksumCalculation: "WHEN_REQUIRED" };
  const client = new S3Client({ ...settings, endpoint, credentials });
  atEnd(async () => client.destroy());
  return client;
}

export async function createBucket(client: Client): Promise<string> {
  const { CreateBucketCommand } = await sdk();
  const bucket = `images-${randomBytes(6).toString("hex")}`;
  await client.send(new CreateBucketCommand({ Bucket: bucket }) as never);
  return bucket;
}

/** Everything in a bucket that is not a committed blob: what uploads may leave behind. */
export async function leftoversIn(client: Client, bucket: string): Promise<string[]> {
  const { ListMultipartUploadsCommand, ListObjectsV2Command } = await sdk();
  const send = (command: object) => client.send(command as never) as Promise<Record<string, { Key: string }[] | undefined>>;
  const objects = await send(new ListObjectsV2Command({ Bucket: bucket } as never));
  const uploads = await send(new ListMultipartUploadsCommand({ Bucket: bucket } as never));
  const names = (objects.Contents ?? []).map(({ Key }) => Key).filter((key) => !/(?:^|\/)blobs\//.test(key));
  return [...names, ...(uploads.Uploads ?? []).map(({ Key }) => `upload to ${Key}`)];
}
