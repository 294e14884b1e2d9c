import { randomBytes } from "node:crypto";
import { aggregate, type ByteRange, localRegistry, orThrow, remoteRegistry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeUpstream } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { bytesOf } from "../fixtures/read.js";

async function connected(size: number) {
  const upstream = await fakeUpstream();
  const bytes = randomBytes(size);
  const { layers } = upstream.addImage("app", "1", { layers: [bytes] });
  const digest = layers[0]?.digest ?? "";
  const local = localRegistry({ storage: memoryStorage(), name: "local" });
  const registry = aggregate({ local, connectors: [{ name: "up", source: remoteRegistry(upstream.url) }] });
  const close = async () => {
    await registry.close();
    await upstream.close();
  };
  return { upstream, bytes, digest, registry, close };
}

test.each([0, 1000, 64 * 1024, 64 * 1024 + 1, 3_000_000])("a blob of %i bytes comes whole without a cache in front", async (size) => {
  const { bytes, digest, registry, close } = await connected(size);
  expect(digestOf(await bytesOf(await registry.getBlob("app", digest)))).toBe(digestOf(bytes));
  await close();
});

test.each([1000, 3_000_000])("nobody gets a complete answer of %i wrong bytes", async (size) => {
  const { upstream, digest, registry, close } = await connected(size);
  upstream.intercept = ({ url }) => (url.includes("/blobs/") ? { corrupt: true } : undefined);
  const lookup = await registry.getBlob("app", digest);
  if (size === 1000) expect(lookup).toMatchObject({ kind: "unavailable", error: { message: expect.stringContaining("other bytes") } });
  else await expect(bytesOf(lookup)).rejects.toMatchObject({ code: "UNAVAILABLE" });
  await close();
});

test("a part is given once the whole is verified; outside the blob is refused", async () => {
  const { bytes, digest, registry, close } = await connected(200_000);
  const parts: [ByteRange, number, number][] = [
    [{ start: 5, end: 9 }, 5, 10],
    [{ start: 1000, end: 150_000 }, 1000, 150_001],
    [{ last: 70_000 }, 130_000, 200_000],
  ];
  for (const [range, start, end] of parts) {
    const lookup = await registry.getBlob("app", digest, { range });
    expect(orThrow(lookup).range).toEqual({ start, end: end - 1, total: 200_000 });
    expect((await bytesOf(lookup)).equals(bytes.subarray(start, end))).toBe(true);
  }
  await expect(registry.getBlob("app", digest, { range: { start: 200_000 } })).rejects.toMatchObject({ code: "RANGE_INVALID" });
  await close();
});
