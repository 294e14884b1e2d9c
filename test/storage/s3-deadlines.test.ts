import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { S3Client } from "@aws-sdk/client-s3";
import { isRegistryError, localRegistry, type RegistryError } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { fetchHandler } from "oci-manifold/fetch";
import { memoryStorage } from "oci-manifold/storage/memory";
import { type S3BlobStoreOptions, s3BlobStore } from "oci-manifold/storage/s3";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { recorder } from "../http/support.js";
import { FakeS3, type FakeS3Request, fakeSdk, s3Failure } from "./fake-s3.js";
import { bytesOf, id, inChunks, MiB, stored } from "./s3-support.js";

const never = new Promise<never>(() => {});

function storeWith(o: Partial<S3BlobStoreOptions> = {}) {
  const client = new FakeS3();
  const clock = fakeClock();
  return { client, clock, blobs: s3BlobStore({ client, sdk: fakeSdk, bucket: "images", clock, ...o }) };
}

/** What it fails with, if it has failed by then. */
async function failureAfter(clock: ReturnType<typeof fakeClock>, milliseconds: number, work: Promise<unknown>) {
  let failure: RegistryError | "waits" = "waits";
  work.catch((error: unknown) => {
    if (!isRegistryError(error)) throw error;
    failure = error;
  });
  await clock.advance(milliseconds);
  return failure as RegistryError | "waits";
}

describe("a store that takes a request and never answers", () => {
  test.each([
    ["ListObjectsV2", (s: ReturnType<typeof storeWith>) => s.blobs.list({ limit: 1 })],
    ["DeleteObject", (s: ReturnType<typeof storeWith>) => s.blobs.delete("blobs/0.0123456789abcdef")],
    ["PutObject", (s: ReturnType<typeof storeWith>) => s.blobs.stage(id())],
    ["GetObject", (s: ReturnType<typeof storeWith>) => bytesOf(s.blobs.read("blobs/0.0123456789abcdef"))],
    [
      "HeadObject",
      (s: ReturnType<typeof storeWith>) => s.blobs.copyFrom?.({ kind: "object", bucket: "old", key: "k" }, digestOf(Buffer.of())) ?? never,
    ],
  ])("is given up on %s after ten seconds, with an error that says so", async (_, ask) => {
    const s = storeWith();
    s.client.intercept = () => never;
    const asked = ask(s);
    expect(await failureAfter(s.clock, 9_000, asked)).toBe("waits");
    expect(await failureAfter(s.clock, 2_000, asked)).toMatchObject({
      code: "UNAVAILABLE",
      status: 503,
      retryAfter: 1,
      message: expect.stringContaining("does not answer requests now (TimeoutError)"),
      detail: { storage: "images" },
    });
  });

  test("tells the client to stop, so that no connection is kept for an answer that nobody waits for", async () => {
    let signal: AbortSignal | undefined;
    const client = {
      send(_: never, o?: { abortSignal?: AbortSignal }) {
        signal = o?.abortSignal;
        return never;
      },
    };
    const { blobs, clock } = storeWith({ client });
    const listed = blobs.list({ limit: 1 });
    await failureAfter(clock, 9_000, listed);
    expect(signal?.aborted).toBe(false);
    await failureAfter(clock, 2_000, listed);
    expect(signal?.aborted).toBe(true);
  });

  test("may take as long for a part as its bytes take at the slowest rate, and no longer", async () => {
    const { client, clock, blobs } = storeWith({ requestTimeout: "5s", minUploadRate: "1MiB" });
    const staged = await blobs.stage(id());
    client.intercept = ({ command, answer }) => (command === "UploadPart" ? never : answer());
    const appended = staged.append(inChunks(randomBytes(9 * MiB)));
    // 8 MiB at 1 MiB a second, and 5 s more.
    for (let turn = 0; turn < 50; turn++) await clock.advance(0);
    expect(await failureAfter(clock, 12_500, appended)).toBe("waits");
    expect(await failureAfter(clock, 7_000, appended)).toMatchObject({ code: "UNAVAILABLE" });
  });

  test("may take minutes to put a large object together", async () => {
    const { client, clock, blobs } = storeWith();
    const data = randomBytes(9 * MiB);
    const staged = await blobs.stage(id());
    await staged.append(inChunks(data));
    client.intercept = ({ command, answer }) => (command === "CompleteMultipartUpload" || command === "HeadObject" ? never : answer());
    const committed = staged.commit(digestOf(data));
    expect(await failureAfter(clock, 4 * 60_000, committed)).toBe("waits");
    expect(await failureAfter(clock, 2 * 60_000, committed)).toMatchObject({ code: "UNAVAILABLE" });
  });
});

test("clients of a registry whose store never answers get 503 with the pause it makes sense to wait, and the host a fault", async () => {
  const { client, clock, blobs } = storeWith();
  const events = recorder();
  const registry = localRegistry({ storage: { blobs, metadata: memoryStorage().metadata }, name: "release", clock });
  const handler = fetchHandler(registry, { anonymousWrites: true, events });
  client.intercept = () => never;
  const push = async () => {
    const answer = handler(new Request("http://registry.example/v2/app/blobs/uploads/", { method: "POST" }));
    for (let turn = 0; turn < 20; turn++) await clock.advance(0);
    await clock.advance(11_000);
    return answer;
  };
  const first = await push();
  expect([first.status, first.headers.get("retry-after")]).toEqual([503, "1"]);
  expect(events.of("fault")).toMatchObject([
    { message: expect.stringMatching(/^POST .*bucket images .*PutObject was not answered within 10 s/) },
  ]);
  await clock.advance(30_000);
  const later = await push();
  expect([later.status, Number(later.headers.get("retry-after")) > 10]).toEqual([503, true]);
});

describe("a transfer that stops in the middle", () => {
  const stopping = (bytes: Uint8Array, at: number) =>
    new Readable({
      read() {
        if (at > 0) this.push(bytes.subarray(0, at));
        at = 0;
      },
    });
  /** The first so many answers stop after some bytes. */
  function stops(client: FakeS3, times: number, at: number) {
    client.intercept = async ({ command, answer }: FakeS3Request) => {
      const answered = (await answer()) as { Body?: Readable };
      if (command !== "GetObject" || times-- <= 0 || !answered.Body) return answered;
      return { ...answered, Body: stopping(await bytesOf(answered.Body), at) };
    };
  }

  test("goes on where it was, once nothing has come for thirty seconds", async () => {
    const { client, clock, blobs } = storeWith();
    const data = randomBytes(100_000);
    const location = await stored(blobs, data);
    stops(client, 1, 40_000);
    const read = bytesOf(blobs.read(location));
    await clock.advance(29_000);
    expect(client.countOf("GetObject")).toBe(1);
    await clock.advance(2_000);
    expect((await read).equals(data)).toBe(true);
    expect(client.countOf("GetObject")).toBe(2);
  });

  test("and goes on stopping is given up on", async () => {
    const { client, clock, blobs } = storeWith();
    const location = await stored(blobs, randomBytes(100_000));
    stops(client, 9, 0);
    expect(await failureAfter(clock, 70_000, bytesOf(blobs.read(location)))).toMatchObject({ code: "UNAVAILABLE" });
    expect(client.countOf("GetObject")).toBe(2);
  });

  test("is not one that waits for its reader", async () => {
    const { client, clock, blobs } = storeWith();
    const data = randomBytes(3 * MiB);
    const location = await stored(blobs, data);
    client.intercept = async ({ answer }) => ({ ...(await answer()), Body: Readable.from(inChunks(data, 50_000)) });
    const reader = blobs.read(location)[Symbol.asyncIterator]();
    let received = (await reader.next()).value.byteLength;
    await clock.advance(10 * 60_000);
    for (let step = await reader.next(); !step.done; step = await reader.next()) received += step.value.byteLength;
    expect(received).toBe(data.byteLength);
    expect(client.countOf("GetObject")).toBe(1);
  });
});

describe("Retry-After", () => {
  const asking = (value: string, status = 503) =>
    Object.assign(s3Failure("SlowDown", status), { $response: { headers: { "Retry-After": value } } });

  test("is the store's own where it has said so", async () => {
    for (const [value, seconds] of [
      ["7", 7],
      [new Date(Date.now() + 90_500).toUTCString(), 90],
      ["0", 1],
      ["soon", 1],
      ["999999", 3600],
    ] as const) {
      const { client, blobs } = storeWith();
      client.intercept = () => Promise.reject(asking(value));
      const { retryAfter = 0 } = await blobs.list({ limit: 1 }).then(
        () => ({}) as RegistryError,
        (error: RegistryError) => error,
      );
      expect(Math.abs(retryAfter - seconds), value).toBeLessThanOrEqual(value.includes("GMT") ? 2 : 0);
    }
  });

  test("grows while an outage lasts, and is short again after it", async () => {
    const { client, clock, blobs } = storeWith();
    const told: (number | undefined)[] = [];
    const ask = () =>
      blobs.list({ limit: 1 }).then(
        () => told.push(undefined),
        ({ retryAfter }: RegistryError) => told.push(retryAfter),
      );
    client.intercept = () => Promise.reject(Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" }));
    for (const wait of [0, 4_000, 16_000, 60_000, 240_000]) {
      await clock.advance(wait);
      await ask();
    }
    client.intercept = ({ answer }) => answer();
    await ask();
    client.intercept = () => Promise.reject(s3Failure("InternalError", 500));
    await ask();
    expect(told).toEqual([1, 2, 10, 40, 60, undefined, 1]);
  });
});

describe("the SDK's own client", () => {
  async function clientOf(handler: Parameters<typeof createServer>[1]) {
    const server = createServer({}, handler);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => {
      server.closeAllConnections();
      server.close();
    });
    return new S3Client({
      endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      region: "us-east-1",
      forcePathStyle: true,
      credentials: { accessKeyId: "a", secretAccessKey: "b" },
    });
  }

  test("is told to give up a request that is never answered", async () => {
    let closed = 0;
    const client = await clientOf((request) => void request.socket.on("close", () => closed++));
    const blobs = s3BlobStore({ client, bucket: "images", requestTimeout: "100ms" });
    await expect(blobs.list({ limit: 1 })).rejects.toMatchObject({ code: "UNAVAILABLE", status: 503 });
    await expect.poll(() => closed).toBeGreaterThan(0);
  });

  test("has been asked to wait, which is told when the deadline comes before its next attempt", async () => {
    const client = await clientOf((_, response) => {
      response.writeHead(503, { "Retry-After": "7", "Content-Type": "application/xml" });
      response.end("<Error><Code>SlowDown</Code><Message>slower</Message></Error>");
    });
    const blobs = s3BlobStore({ client, bucket: "images", requestTimeout: "500ms" });
    await expect(blobs.list({ limit: 1 })).rejects.toMatchObject({ retryAfter: 7, message: expect.stringContaining("SlowDown") });
  });
});
