import { randomBytes } from "node:crypto";
import { cached, orThrow, remoteRegistry } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeUpstream, partBlobStore } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { bytesOf, eventually } from "../../fixtures/read.js";
import { arrived, cacheBefore, gate, scriptedSource } from "../scripted-source.js";

const bytes = randomBytes(300_000);

describe("abandoned by its last reader", () => {
  const begun = async (onAbandoned: "finish" | "stop") => {
    const { open, passed } = gate();
    const { source, digest, requests, streams } = scriptedSource(bytes, () => ({ holdAt: 150_000, until: passed }));
    const { hub, clock, fills, storage } = cacheBefore(source, { onAbandoned });
    const { content } = orThrow(await hub.getBlob("app", digest));
    if (content.kind !== "stream") throw new Error("expected a stream");
    const reader = content.open();
    await new Promise((resolve) => reader.once("data", resolve));
    return { open, hub, digest, clock, fills, storage, reader, requests, streams };
  };

  test("a fill is finished by default", async () => {
    const { open, reader, clock, storage } = await begun("finish");
    reader.destroy();
    await clock.advance(60_000);
    open();
    await eventually(async () => (await storage.blobs.list({ limit: 1 })).items.length === 1, "stored");
  });

  test("or stopped a second later, its bytes freed", async () => {
    const { reader, clock, storage, fills, hub, streams } = await begun("stop");
    reader.destroy();
    await clock.advance(999);
    expect((await hub.status()).fills.running).toBe(1);
    await clock.advance(1);
    await eventually(async () => (await hub.status()).fills.running === 0, "stopped");
    expect(fills).toMatchObject([{ error: "nobody waits for it" }]);
    expect((await storage.blobs.listStaged({ limit: 1 })).items).toEqual([]);
    expect(streams[0]?.destroyed).toBe(true);
  });

  test("unless someone comes back within that second", async () => {
    const { open, reader, clock, hub, digest, requests } = await begun("stop");
    reader.destroy();
    await clock.advance(500);
    const again = bytesOf(await hub.getBlob("app", digest));
    await clock.advance(60_000);
    open();
    expect((await again).equals(bytes)).toBe(true);
    expect(requests).toEqual(["GET"]);
  });

  test("is stopped too when its only caller leaves before there is an answer", async () => {
    const { passed, open } = gate();
    const { source, digest } = scriptedSource(bytes, () => ({ holdAt: 10_000, until: passed, unsized: true }));
    const { hub, clock } = cacheBefore(source, { onAbandoned: "stop" });
    const leaving = new AbortController();
    const first = hub.getBlob("app", digest, { signal: leaving.signal });
    await new Promise((resolve) => setTimeout(resolve, 20));
    leaving.abort(new Error("left"));
    await expect(first).rejects.toThrow("left");
    await clock.advance(1000);
    await eventually(async () => (await hub.status()).fills.running === 0, "stopped");
    open();
  });
});

describe("close", () => {
  test.each([
    ["before the source has answered", 0, false],
    ["while bytes come", 150_000, false],
    ["while bytes come into an object store", 150_000, true],
  ] as const)("%s waits until its deadline, then breaks off", async (_, holdAt, parts) => {
    const { passed } = gate();
    const { source, digest, getBlob } = scriptedSource(bytes, () => ({ holdAt, until: passed }));
    const silent = { ...source, getBlob: (...args: Parameters<typeof getBlob>) => passed.then(() => getBlob(...args)) };
    const storage = parts ? { blobs: partBlobStore(), metadata: memoryStorage().metadata } : memoryStorage();
    const { hub, clock, fills } = cacheBefore(holdAt === 0 ? silent : source, { storage });
    const reader = hub.getBlob("app", digest).then(arrived);
    await new Promise((resolve) => setTimeout(resolve, 30));
    let over = false;
    const closing = hub.close({ deadline: "5s" }).then(() => {
      over = true;
    });
    await clock.advance(4999);
    expect(over).toBe(false);
    await clock.advance(1);
    await closing;
    expect((await reader).error).toMatchObject({ message: expect.stringContaining("closing") });
    expect(fills.every(({ error }) => error !== undefined)).toBe(true);
    expect((await storage.blobs.listStaged({ limit: 1 })).items).toEqual([]);
    expect(await hub.getBlob("app", digest)).toMatchObject({ kind: "unavailable" });
  });

  test("lets a fill end that ends in time", async () => {
    const { passed, open } = gate();
    const { source, digest } = scriptedSource(bytes, () => ({ holdAt: 150_000, until: passed }));
    const { hub, storage } = cacheBefore(source);
    const reader = hub.getBlob("app", digest).then(bytesOf);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const closing = hub.close();
    open();
    await closing;
    expect((await reader).equals(bytes)).toBe(true);
    expect((await storage.blobs.list({ limit: 1 })).items).toHaveLength(1);
  });

  test("ends a warming that waits for its turn", async () => {
    const upstream = await fakeUpstream();
    upstream.addImage("app", "1", { layers: [100_000, 100_000, 100_000, 100_000] });
    upstream.intercept = ({ url }) => (url.includes("/blobs/") ? { slowBytesPerSecond: 1000 } : undefined);
    const hub = cached(remoteRegistry(upstream.url), { storage: memoryStorage(), name: "hub", concurrency: 1 });
    const warming = hub.warm("app", "1");
    warming.catch(() => {});
    await eventually(async () => (await hub.status()).fills.running > 0, "begun");
    await hub.close({ deadline: "10ms" });
    await expect(warming).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await upstream.close();
  });
});
