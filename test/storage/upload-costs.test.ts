import { randomBytes } from "node:crypto";
import { localRegistry } from "oci-manifold";
import { digestOf, type MetadataStore } from "oci-manifold/extend";
import { fetchHandler } from "oci-manifold/fetch";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { beginLocked } from "../../src/storage/postgres/key-locks.js";
import { decodeState, mostPieces, noParts } from "../../src/storage/s3/upload-state.js";
import { FakeS3 } from "./fake-s3.js";
import { putLease } from "./neighbours.js";
import { MiB, storeOf } from "./s3-support.js";

/** What one commit of PostgreSQL's is: its first statement takes the locks. */
const commitTrips = 3;
const commitStatements = beginLocked("s", [], [putLease("a")]).split("; ").length + 2;

interface Cost {
  readonly requests: string[];
  readonly sent: number;
  readonly trips: number;
  readonly statements: number;
}

/** Nodes over one bucket and one database, and what an upload costs whose requests go to them in turn. */
async function nodes(count: number) {
  const client = new FakeS3();
  const { metadata } = memoryStorage();
  let trips = 0;
  let statements = 0;
  const counted = <T>(work: () => Promise<T>, cost = { trips: 1, statements: 1 }): Promise<T> => {
    trips += cost.trips;
    statements += cost.statements;
    return work();
  };
  const commit = { trips: commitTrips, statements: commitStatements };
  const records: MetadataStore = {
    get: (key) => counted(() => metadata.get(key)),
    page: (range) => counted(() => metadata.page(range)),
    names: (range) => counted(() => metadata.names(range)),
    commit: (conditions, changes) => counted(() => metadata.commit(conditions, changes), changes.length === 0 ? undefined : commit),
    ready: () => metadata.ready(),
    close: () => metadata.close(),
  };
  let sent = 0;
  client.intercept = ({ input, answer }) => {
    sent += input.Body?.byteLength ?? 0;
    return answer();
  };
  const handlers: ReturnType<typeof fetchHandler>[] = [];
  for (let node = 0; node < count; node++) {
    const registry = localRegistry({ storage: { blobs: storeOf(client), metadata: records }, name: "release" });
    await registry.ready();
    handlers.push(fetchHandler(registry, { anonymousWrites: true }));
  }
  let turn = 0;
  const send = async (method: string, path: string, body?: Uint8Array, headers: Record<string, string> = {}): Promise<string> => {
    const handler = handlers[turn++ % handlers.length];
    if (!handler) throw new Error("there is no node");
    const request = new Request(new URL(path, "http://registry.example"), { method, headers, ...(body && { body: Buffer.from(body) }) });
    const response = await handler(request);
    await response.arrayBuffer();
    expect(response.status, `${method} ${path}`).toBeLessThan(300);
    return response.headers.get("location") ?? "";
  };
  const push = async (bytes: Uint8Array, chunk: number): Promise<Cost> => {
    client.asked.length = 0;
    [trips, statements, sent] = [0, 0, 0];
    let location = await send("POST", "/v2/app/blobs/uploads/");
    for (let at = 0; at < bytes.byteLength; at += chunk) {
      const part = bytes.subarray(at, at + chunk);
      const headers = { "Content-Range": `${at}-${at + part.byteLength - 1}`, "Content-Length": String(part.byteLength) };
      location = await send("PATCH", location, part, headers);
    }
    await send("PUT", `${location}?digest=${digestOf(bytes)}`);
    return { requests: [...client.asked], sent, trips, statements };
  };
  // The first uploads of a process look for others' that have expired.
  for (let node = 0; node < 2 * count; node++) await push(randomBytes(10), 5);
  return { push, client };
}

const countOf = (requests: readonly string[]) =>
  Object.fromEntries([...new Set(requests)].sort().map((name) => [name, requests.filter((request) => request === name).length]));

test("a small blob takes five requests to S3, and 25 round trips to PostgreSQL with 45 statements", async () => {
  const { push } = await nodes(1);
  const { requests, trips, statements } = await push(randomBytes(1000), 1000);
  const { GetObject: _, ...counts } = countOf(requests);
  expect(counts).toEqual({ PutObject: 3, DeleteObject: 2 });
  expect([trips, statements]).toEqual([25, 45]);
});

test("where each request comes to another node it takes four requests more: to find the upload, and to read it back", async () => {
  const { push } = await nodes(3);
  const { requests, trips } = await push(randomBytes(1000), 1000);
  expect(countOf(requests)).toEqual({ PutObject: 3, DeleteObject: 2, ListObjectsV2: 2, GetObject: 2 });
  // A node that has not seen the upload before looks how much of it is there.
  expect(trips).toBe(40);
});

test.each([
  ["one node", 1, 0],
  ["three nodes", 3, 16],
])("a chunk of 1 MiB is sent once and once more with its part, at %s", async (_, count, listed) => {
  const { push, client } = await nodes(count);
  const chunks = 16;
  const bytes = randomBytes(chunks * MiB);
  const { requests, sent, trips } = await push(bytes, MiB);
  const { PutObject = 0, UploadPart, ListObjectsV2 = 0, DeleteObject } = countOf(requests);
  // Seven of eight chunks are stored by themselves before their part is whole.
  expect(sent).toBe(bytes.byteLength + 14 * MiB);
  expect({ UploadPart, DeleteObject }).toEqual({ UploadPart: 2, DeleteObject: 14 + 2 });
  // Beside the chunks the upload's beginning, and that of its parts.
  expect(PutObject).toBe(14 + 2);
  expect(ListObjectsV2).toBeGreaterThanOrEqual(listed);
  expect(trips / chunks).toBeLessThan(12);
  const stored = [...client.objects].filter(([key, object]) => key.startsWith("blobs/") && object.byteLength === bytes.byteLength);
  expect(stored.map(([, object]) => Buffer.compare(object, bytes))).toEqual([0]);
});

test.each([1000, 100_000, 700_000])(
  "chunks of %i bytes, of which many fit a part, are stored as a few objects, and are all there",
  async (chunk) => {
    const { push, client } = await nodes(2);
    const bytes = randomBytes(Math.min(chunk * 60, 9 * MiB));
    let most = 0;
    const { intercept } = client;
    client.intercept = (request) => {
      most = Math.max(most, [...client.objects.keys()].filter((key) => key.endsWith(".tail")).length);
      return intercept(request);
    };
    await push(bytes, chunk);
    expect(most).toBeLessThanOrEqual(2 * mostPieces + 1);
    expect([...client.objects.values()].some((object) => Buffer.compare(object, bytes) === 0)).toBe(true);
    expect([...client.objects.keys()].filter((key) => !key.startsWith("blobs/"))).toEqual([]);
  },
);

test("a state from before there were several objects still stands", () => {
  const state = decodeState({ tail: "0123456789abcdef", tailBytes: 700 });
  expect(state).toEqual({ upload: undefined, parts: noParts, tail: [{ random: "0123456789abcdef", size: 700 }] });
});
