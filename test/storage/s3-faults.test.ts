import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { digestOf } from "oci-manifold/extend";
import { s3BlobStore } from "oci-manifold/storage/s3";
import { describe, expect, test } from "vitest";
import { FakeS3, fakeSdk, s3Failure } from "./fake-s3.js";
import { bytesOf, id, inChunks, MiB, stagedKeys, stored, storeOf } from "./s3-support.js";

describe("faults", () => {
  test("a part that cannot be stored ends the append; what came before it counts, and the upload goes on", async () => {
    const client = new FakeS3();
    const data = randomBytes(50 * MiB);
    const staged = await storeOf(client).stage(id());
    client.intercept = async ({ command, input, answer }) => {
      if (command === "UploadPart" && input.PartNumber === 3) throw s3Failure("SlowDown", 503);
      return answer();
    };
    await expect(staged.append(inChunks(data))).rejects.toMatchObject({ code: "UNAVAILABLE", retryAfter: 1 });
    expect(staged.size).toBe(16 * MiB);
    client.intercept = ({ answer }) => answer();
    await staged.append(inChunks(data.subarray(staged.size)));
    const location = await staged.commit(digestOf(data));
    expect((await bytesOf(storeOf(client).read(location))).equals(data)).toBe(true);
    expect([stagedKeys(client), client.uploads.size]).toEqual([[], 0]);
  });
  test("a full store is tried again once something was freed", async () => {
    const client = new FakeS3();
    let full = true;
    client.intercept = async ({ command, answer }) => {
      if (full && command === "UploadPart") throw s3Failure("QuotaExceeded", 403);
      return answer();
    };
    const staged = await storeOf(client).stage(id());
    const data = randomBytes(20 * MiB);
    await expect(staged.append(inChunks(data))).rejects.toMatchObject({ code: "INSUFFICIENT_STORAGE" });
    const makeRoom = async () => {
      full = false;
      return true;
    };
    await staged.append(inChunks(data.subarray(staged.size)), { makeRoom });
    expect(staged.size).toBe(data.byteLength);
  });
  test.each(["CompleteMultipartUpload", "PutObject"])("a lost answer to the %s of a commit: the object is found", async (lost) => {
    const client = new FakeS3();
    const data = randomBytes(lost === "PutObject" ? 1000 : 20 * MiB);
    client.intercept = async ({ command, input, answer }) => {
      const answered = await answer();
      if (command === lost && input.Key.startsWith("blobs/")) throw Object.assign(new Error("socket hang up"), { code: "ECONNRESET" });
      return answered;
    };
    const location = await stored(storeOf(client), data);
    expect((await bytesOf(storeOf(client).read(location))).equals(data)).toBe(true);
    expect(stagedKeys(client)).toEqual([]);
  });
  test("a commit that failed is tried again, under the same location", async () => {
    const client = new FakeS3();
    const data = randomBytes(1000);
    const staged = await storeOf(client).stage(id());
    await staged.append(inChunks(data));
    client.intercept = async ({ input, answer }) => {
      if (input.Key?.startsWith("blobs/")) throw s3Failure("InternalError", 500);
      return answer();
    };
    await expect(staged.commit(digestOf(data))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    client.intercept = ({ answer }) => answer();
    const location = await staged.commit(digestOf(data));
    expect(await staged.commit(digestOf(data))).toBe(location);
    expect([...client.objects.keys()]).toEqual([location]);
  });
  test.each([1000, 20 * MiB])("a store that knows no conditions takes a blob of %i bytes without", async (size) => {
    const client = new FakeS3();
    client.intercept = async ({ input, answer }) => {
      if (input.IfNoneMatch) throw s3Failure("NotImplemented", 501);
      return answer();
    };
    const data = randomBytes(size);
    const blobs = storeOf(client);
    expect((await bytesOf(blobs.read(await stored(blobs, data)))).equals(data)).toBe(true);
  });
  test("staged objects that cannot be removed do not undo a commit, and stay listed", async () => {
    const client = new FakeS3();
    client.intercept = async ({ command, answer }) => {
      if (command === "DeleteObject") throw s3Failure("SlowDown", 503);
      return answer();
    };
    const blobs = storeOf(client);
    await stored(blobs, randomBytes(100));
    expect((await blobs.listStaged({ limit: 10 })).items).toHaveLength(1);
  });
  test("errors tell no secrets", async () => {
    const client = new FakeS3();
    client.intercept = async () => {
      throw Object.assign(s3Failure("SignatureDoesNotMatch", 403), {
        AWSAccessKeyId: "AKIA",
        StringToSign: "hush",
        $response: { headers: "hush" },
      });
    };
    const error = await storeOf(client)
      .ready()
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("bucket images") });
    const { cause } = error as Error;
    expect(JSON.stringify([cause, String(cause)])).not.toMatch(/hush|AKIA/);
  });
  test("what loads the SDK is asked again after a failure, and not after a success", async () => {
    let asked = 0;
    const sdk = async () => {
      if (++asked === 1) throw new Error("the network drive is gone");
      return fakeSdk;
    };
    const blobs = s3BlobStore({ client: new FakeS3(), sdk, bucket: "images" });
    await expect(blobs.list({ limit: 1 })).rejects.toThrow("the network drive is gone");
    await blobs.list({ limit: 1 });
    await blobs.list({ limit: 1 });
    expect(asked).toBe(2);
  });
});

describe("reading", () => {
  /** Ends each body early: with an error, or as if it were whole. */
  function cutting(client: FakeS3, how: "error" | "end", times: number): void {
    client.intercept = async ({ command, answer }) => {
      const answered = (await answer()) as { Body?: Readable };
      if (command !== "GetObject" || times-- <= 0 || !answered.Body) return answered;
      const bytes = await bytesOf(answered.Body);
      const cut = Readable.from(
        (async function* () {
          yield bytes.subarray(0, bytes.byteLength >> 1);
          if (how === "error") throw Object.assign(new Error("aborted"), { code: "ECONNRESET" });
        })(),
      );
      return { ...answered, Body: cut };
    };
  }

  test.each(["error", "end"] as const)("a body cut off by an %s goes on where it ended, also of a range", async (how) => {
    const client = new FakeS3();
    const blobs = storeOf(client);
    const data = randomBytes(3_000_000);
    const location = await stored(blobs, data);
    cutting(client, how, 3);
    expect((await bytesOf(blobs.read(location))).equals(data)).toBe(true);
    cutting(client, how, 2);
    expect((await bytesOf(blobs.read(location, { range: { start: 5, end: 2_000_000 } }))).equals(data.subarray(5, 2_000_001))).toBe(true);
  });
  test("an object that was replaced meanwhile is not continued", async () => {
    const client = new FakeS3();
    const blobs = storeOf(client);
    const location = await stored(blobs, randomBytes(3_000_000));
    cutting(client, "error", 1);
    const stream = blobs.read(location);
    stream.once("data", () => client.objects.set(location, randomBytes(3_000_000)));
    await expect(bytesOf(stream)).rejects.toThrow();
  });
  test("a store that always cuts is given up on", { timeout: 20_000 }, async () => {
    const client = new FakeS3();
    const blobs = storeOf(client);
    const location = await stored(blobs, randomBytes(1000));
    client.intercept = async ({ command, answer }) => ({
      ...(await answer()),
      ...(command === "GetObject" && { Body: Readable.from([]) }),
    });
    await expect(bytesOf(blobs.read(location))).rejects.toThrow(/ends at byte 0, before the expected 1000/);
  });
  test("an answer that is not the range asked for is an error", async () => {
    const client = new FakeS3();
    const blobs = storeOf(client);
    const location = await stored(blobs, randomBytes(1000));
    client.intercept = async ({ command, answer }) => ({
      ...(await answer()),
      ...(command === "GetObject" && { ContentRange: undefined }),
    });
    await expect(bytesOf(blobs.read(location, { range: { start: 10, end: 20 } }))).rejects.toThrow(/instead of the range/);
  });
  test("a reader that leaves aborts the request, and one that never reads makes none", async () => {
    const client = new FakeS3();
    const blobs = storeOf(client);
    const location = await stored(blobs, randomBytes(1000));
    blobs.read(location).destroy();
    expect(client.countOf("GetObject")).toBe(0);
    let body: Readable | undefined;
    client.intercept = async ({ answer }) => {
      body = new Readable({ read() {} });
      return { ...(await answer()), Body: body };
    };
    const stream = blobs.read(location);
    stream.resume();
    await expect.poll(() => body).toBeDefined();
    stream.destroy();
    await expect.poll(() => body?.destroyed).toBe(true);
  });
  test("a text that is no location leads nowhere", async () => {
    const client = new FakeS3();
    const blobs = storeOf(client);
    await expect(bytesOf(blobs.read("../elsewhere"))).rejects.toMatchObject({ code: "BLOB_UNKNOWN" });
    await expect(bytesOf(blobs.read("staged/0/begun"))).rejects.toMatchObject({ code: "BLOB_UNKNOWN" });
    expect(client.asked).toEqual([]);
  });
});
