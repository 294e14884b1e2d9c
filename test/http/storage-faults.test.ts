import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { aggregate, localRegistry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { type DiskFault, diskFault } from "../../src/storage/files/disk-errors.js";
import { postgresError } from "../../src/storage/postgres/postgres-errors.js";
import { s3Error } from "../../src/storage/s3/s3-errors.js";
import { eventually } from "../fixtures/read.js";
import { withDigest } from "../interop/http.js";
import { recorder, site } from "./support.js";

const layer = randomBytes(200_000);
const digest = digestOf(layer);
const faultAt = (fault: DiskFault) => diskFault(fault, "/srv/data", Object.assign(new Error("EIO: i/o error"), { code: "EIO" }));

/** A registry with a layer, whose blob store then fails: `read` after so many bytes. */
async function failing(fault: DiskFault, after = 0) {
  const storage = memoryStorage();
  await localRegistry({ storage, name: "test" }).putBlob("app", { digest }, chunksOf(layer));
  async function* broken() {
    if (after > 0) yield layer.subarray(0, after);
    throw faultAt(fault);
  }
  const blobs = { ...storage.blobs, stage: () => Promise.reject(faultAt(fault)), read: () => Readable.from(broken()) };
  return localRegistry({ storage: { ...storage, blobs }, name: "test" });
}

test.each([
  ["full", 507, "INSUFFICIENT_STORAGE", "disk is full", null],
  ["failing", 503, "UNAVAILABLE", "try again later", "1"],
  ["crowded", 503, "UNAVAILABLE", "try again later", "1"],
] as const)("of a disk that is %s clients learn no path, and the host learns all", async (fault, status, code, message, retryAfter) => {
  const events = recorder();
  const { url } = await site(await failing(fault), { anonymousWrites: true, events });
  for (const [method, target] of [
    ["POST", withDigest(`${url}/v2/app/blobs/uploads/`, digestOf(new Uint8Array([1])))],
    ["GET", `${url}/v2/app/blobs/${digest}`],
  ] as const) {
    const response = await fetch(target, { method, ...(method === "POST" && { body: new Uint8Array([1]) }) });
    expect([response.status, response.headers.get("retry-after")]).toEqual([status, retryAfter]);
    expect(await response.json()).toEqual({ errors: [{ code, message: expect.stringContaining(message) }] });
    expect(events.of("fault").at(-1)?.message).toMatch(new RegExp(`^${method} /v2/app/blobs/.*: .* at /srv/data: `));
  }
});

const refusedAt = (address: string) => Object.assign(new Error(`connect ECONNREFUSED ${address}`), { code: "ECONNREFUSED" });

test.each([
  ["a bucket", s3Error("images", refusedAt("10.1.2.3:9000")), /S3 store of bucket images .*\(ECONNREFUSED\).*10\.1\.2\.3:9000/],
  ["a database", postgresError(refusedAt("10.1.2.3:5432")), /PostgreSQL does not answer \(ECONNREFUSED\): check .*10\.1\.2\.3:5432/],
])("of %s that is away clients learn no name, and the host learns all, also behind a connector", async (_, error, told) => {
  const storage = memoryStorage();
  const source = localRegistry({
    storage: { ...storage, metadata: { ...storage.metadata, get: () => Promise.reject(error) } },
    name: "far",
  });
  const all = aggregate({ local: localRegistry({ storage: memoryStorage(), name: "all" }), connectors: [{ name: "far", source }] });
  for (const registry of [source, all]) {
    const events = recorder();
    const { fetch } = await site(registry, { events });
    const response = await fetch("/v2/app/manifests/latest");
    expect([response.status, response.headers.has("retry-after")]).toEqual([503, true]);
    expect(await response.text()).not.toMatch(/images|S3|PostgreSQL|10\.1/);
    expect(events.of("fault")).toMatchObject([{ message: expect.stringMatching(told) }]);
  }
});

test("who may know the composition learns where, too", async () => {
  const { fetch } = await site(await failing("failing"), { showTopology: true });
  const response = await fetch(`/v2/app/blobs/${digest}`);
  expect(await response.json()).toMatchObject({ errors: [{ code: "UNAVAILABLE", message: expect.stringContaining("/srv/data") }] });
});

test("a disk that fails in the middle of a pull breaks the connection, and is a fault event", async () => {
  const events = recorder();
  const { fetch } = await site(await failing("failing", 100_000), { events });
  const response = await fetch(`/v2/app/blobs/${digest}`);
  expect(response.status).toBe(200);
  await expect(response.arrayBuffer()).rejects.toThrow();
  await eventually(async () => events.of("fault").length > 0, "told");
  expect(events.of("fault")).toMatchObject([{ message: expect.stringContaining("the disk fails at /srv/data") }]);
});
