import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { lstat, mkdtemp, readdir, rm, stat, symlink, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileBlobStore } from "oci-manifold/storage/files";
import { fakeClock } from "oci-manifold/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Digest, digestOf } from "../../src/core/digest.js";
import { Bucket } from "../../src/storage/s3/bucket.js";
import { takeObject } from "../../src/storage/s3/foreign-object.js";
import { sender } from "../../src/storage/s3/requests.js";
import { FakeS3, fakeSdk, s3Failure } from "./fake-s3.js";
import { bytesOf, MiB, stagedKeys, storeOf } from "./s3-support.js";
import { temporaryFolder } from "./temporary-folder.js";

const data = randomBytes(100_000);
const digest: Digest = digestOf(data);

describe("files", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let source: string;
  beforeEach(async () => {
    folder = await temporaryFolder();
    source = join(folder.path, "other");
    await writeFile(source, data);
    // As old as layers are.
    await utimes(source, 1_000_000, 1_000_000);
  });
  afterEach(() => folder.remove());

  const store = () => fileBlobStore(join(folder.path, "data"));
  const taken = (path: string, blobs = store()) => blobs.copyFrom?.({ kind: "file", path }, digest);
  const pathOf = (location: string | undefined) => join(folder.path, "data", location ?? "nowhere");

  test("a file is taken as a hard link, and looks as young as it is here without its time being changed", async () => {
    const before = await stat(source);
    const location = await taken(source);
    const [here, there] = await Promise.all([stat(pathOf(location)), stat(source)]);
    expect([here.ino, here.nlink]).toEqual([before.ino, 2]);
    expect(there.mtimeMs).toBe(before.mtimeMs);
    const [listed] = (await store().list({ limit: 10 })).items;
    expect(listed?.location).toBe(location);
    expect(listed?.modifiedAt).toBeGreaterThan(Date.now() - 60_000);
    // Also when the other program has given it up before anything was recorded.
    await rm(source);
    expect((await store().list({ limit: 10 })).items[0]?.modifiedAt).toBeGreaterThan(Date.now() - 60_000);
  });

  test("what is no regular file is not taken, and nothing waits for it", async () => {
    const [symbolic, pipe] = [join(folder.path, "symbolic"), join(folder.path, "pipe")];
    await symlink(source, symbolic);
    execFileSync("mkfifo", [pipe]);
    for (const path of [symbolic, pipe, folder.path]) expect(await taken(path)).toBeUndefined();
    expect((await store().list({ limit: 10 })).items).toEqual([]);
  });

  test("a file with a clock of its own is a stamped copy", async () => {
    const clock = fakeClock();
    const location = await taken(source, fileBlobStore(join(folder.path, "data"), { clock }));
    const here = await lstat(pathOf(location));
    expect([here.nlink, here.mtimeMs]).toEqual([1, clock.now()]);
    expect((await stat(source)).mtimeMs).toBe(1_000_000_000);
  });

  const shared = "/dev/shm";
  const elsewhere = async () => {
    const other = await mkdtemp(join(shared, "manifold-"));
    if ((await stat(other)).dev !== (await stat(folder.path)).dev) return other;
    await rm(other, { recursive: true });
    return undefined;
  };
  test.skipIf(process.platform !== "linux")("a file of another file system is copied, with nothing left beside it", async ({ skip }) => {
    const other = await elsewhere();
    if (!other) return skip("one file system only");
    try {
      const path = join(other, "data");
      await writeFile(path, data);
      const location = await taken(path);
      await rm(path);
      expect(await bytesOf(store().read(location ?? ""))).toEqual(data);
      expect(await readdir(join(folder.path, "data", "uploads"))).toEqual([]);
    } finally {
      await rm(other, { recursive: true });
    }
  });
});

describe("S3", () => {
  let client: FakeS3;
  beforeEach(() => {
    client = new FakeS3();
  });
  const object = { kind: "object", bucket: "images", key: "other/a b/ü+&=%2F?" } as const;
  const bucketOf = () =>
    new Bucket(
      "images",
      undefined,
      sender(client, async () => fakeSdk, "images"),
    );

  test("an object is copied by the service under an encoded name, and its bytes are never asked for", async () => {
    client.objects.set(object.key, data);
    const sources: unknown[] = [];
    client.intercept = ({ command, input, answer }) => {
      if (command === "CopyObject") sources.push(input.CopySource);
      return answer();
    };
    const location = await storeOf(client).copyFrom?.(object, digest);
    expect(sources).toEqual(["images/other/a%20b/%C3%BC%2B%26%3D%252F%3F"]);
    expect(data.equals(client.objects.get(location ?? "") ?? new Uint8Array())).toBe(true);
    expect([client.countOf("GetObject"), client.countOf("PutObject")]).toEqual([0, 0]);
  });

  test.each(["HeadObject", "CopyObject"])("a refused %s is no error, and leaves nothing", async (refused) => {
    client.objects.set(object.key, data);
    client.intercept = ({ command, answer }) => (command === refused ? Promise.reject(s3Failure("AccessDenied", 403)) : answer());
    expect(await storeOf(client).copyFrom?.(object, digest)).toBeUndefined();
    expect([...client.objects.keys()]).toEqual([object.key]);
  });

  test("a copy whose answer was lost counts, and is made once", async () => {
    client.objects.set(object.key, data);
    client.intercept = async ({ command, answer }) => {
      const answered = await answer();
      if (command === "CopyObject") throw s3Failure("InternalError", 500);
      return answered;
    };
    const location = await storeOf(client).copyFrom?.(object, digest);
    expect(data.equals(client.objects.get(location ?? "") ?? new Uint8Array())).toBe(true);
    expect(client.countOf("CopyObject")).toBe(1);
  });

  test("an object that is exchanged meanwhile is not taken", async () => {
    client.objects.set(object.key, data);
    client.intercept = ({ command, answer }) => {
      if (command === "CopyObject") client.objects.set(object.key, randomBytes(100_000));
      return answer();
    };
    await expect(storeOf(client).copyFrom?.(object, digest)).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect([...client.objects.keys()]).toEqual([object.key]);
  });

  test("what is too large for one request is copied in parts", async () => {
    const large = randomBytes(17 * MiB + 3);
    client.objects.set(object.key, large);
    const location = await takeObject(bucketOf(), object, { largest: 5 * MiB });
    expect(client.countOf("UploadPartCopy")).toBe(4);
    expect(large.equals(client.objects.get(location ?? "") ?? new Uint8Array())).toBe(true);
    expect(stagedKeys(client)).toEqual([object.key]);
    expect(client.uploads.size).toBe(0);
  });

  test.each(["AccessDenied", "InternalError"])("a copy in parts that fails by %s leaves nothing", async (name) => {
    client.objects.set(object.key, randomBytes(17 * MiB));
    client.intercept = ({ command, input, answer }) =>
      command === "UploadPartCopy" && input.PartNumber === 3
        ? Promise.reject(s3Failure(name, name === "AccessDenied" ? 403 : 500))
        : answer();
    const work = takeObject(bucketOf(), object, { largest: 5 * MiB });
    if (name === "AccessDenied") expect(await work).toBeUndefined();
    else await expect(work).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect([...client.objects.keys()]).toEqual([object.key]);
    expect(client.uploads.size).toBe(0);
  });

  test("a copy in parts that is killed is found as a staged upload, and cleared away", async () => {
    client.objects.set(object.key, randomBytes(17 * MiB));
    client.intercept = ({ command, answer }) => (command === "UploadPartCopy" ? new Promise(() => {}) : answer());
    void takeObject(bucketOf(), object, { largest: 5 * MiB });
    await expect.poll(() => client.countOf("UploadPartCopy")).toBeGreaterThan(0);
    const [staged] = (await storeOf(client).listStaged({ limit: 10 })).items;
    await storeOf(client).discardStaged(staged?.id ?? "");
    expect([...client.objects.keys()]).toEqual([object.key]);
    expect(client.uploads.size).toBe(0);
  });
});
