import { localRegistry, RegistryError } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { bytesOf, eventually } from "../fixtures/read.js";

const code = (expected: string) => expect.objectContaining({ code: expected });
const bytes = (length: number) => chunksOf(Buffer.alloc(length, 1));
const digest = (length: number) => digestOf(Buffer.alloc(length, 1));

test("no more uploads than the limit; each that ends permits another", async () => {
  const clock = fakeClock();
  const registry = localRegistry({ storage: memoryStorage(), name: "r", clock, maxUploads: 3, uploadTimeToLive: "1h" });
  const [first, second] = [await registry.startUpload("app"), await registry.startUpload("app")];
  await registry.startUpload("other");
  await expect(registry.startUpload("app")).rejects.toEqual(code("TOOMANYREQUESTS"));
  await expect(registry.putBlob("app", { digest: digest(1) }, bytes(1))).rejects.toMatchObject({ status: 429, retryAfter: 30 });
  await first.cancel();
  await registry.putBlob("app", { digest: digest(1) }, bytes(1));
  const third = await registry.startUpload("app");
  await second.append(bytes(5));
  await second.commit(digest(5));
  await registry.startUpload("app");
  await expect(registry.startUpload("app")).rejects.toEqual(code("TOOMANYREQUESTS"));
  // A wrong digest ends its session as well.
  await expect(third.commit(digest(9))).rejects.toEqual(code("DIGEST_INVALID"));
  await registry.startUpload("app");
  // So does time.
  await clock.advance(2 * 3_600_000);
  await registry.startUpload("app");
});

test("uploads in progress hold no more bytes than the limit, and can go on once others have ended", async () => {
  const registry = localRegistry({ storage: memoryStorage(), name: "r", maxUploadBytes: "100B" });
  const [one, two] = [await registry.startUpload("app"), await registry.startUpload("app")];
  await one.append(bytes(60));
  const chunks = async function* () {
    yield Buffer.alloc(30, 1);
    yield Buffer.alloc(30, 1);
  };
  await expect(two.append(chunks())).rejects.toEqual(code("INSUFFICIENT_STORAGE"));
  expect(two.offset).toBe(30);
  await expect(registry.putBlob("app", { digest: digest(11) }, bytes(11))).rejects.toEqual(code("INSUFFICIENT_STORAGE"));
  await registry.putBlob("app", { digest: digest(10) }, bytes(10));
  await one.cancel();
  await two.append(bytes(70), { start: 30 });
  expect((await two.commit(digest(100))).size).toBe(100);
  await registry.putBlob("app", { digest: digest(99) }, bytes(99));
});

test("what other processes hold is known after a sweep, and what they ended no longer counts", async () => {
  const clock = fakeClock();
  const storage = memoryStorage();
  const node = () => localRegistry({ storage, name: "r", clock, maxUploads: 2, maxUploadBytes: "100B" });
  const [one, two] = [node(), node()];
  const theirs = await one.startUpload("app");
  await theirs.append(bytes(80));
  await two.ready();
  const ours = await two.startUpload("app");
  await expect(ours.append(bytes(30))).rejects.toEqual(code("INSUFFICIENT_STORAGE"));
  await expect(two.startUpload("app")).rejects.toEqual(code("TOOMANYREQUESTS"));
  await theirs.cancel();
  await clock.advance(10_000);
  const next = await two.startUpload("app");
  expect(await next.append(bytes(30))).toBe(30);
});

test("a session that is cancelled while it is written to counts no more, and its writer is told", async () => {
  const registry = localRegistry({ storage: memoryStorage(), name: "r", maxUploads: 1 });
  const upload = await registry.startUpload("app");
  const source = async function* () {
    yield Buffer.alloc(1000);
    await (await registry.resumeUpload("app", upload.id)).cancel();
    yield Buffer.alloc(1000);
  };
  await expect(upload.append(source())).rejects.toEqual(code("BLOB_UPLOAD_UNKNOWN"));
  await registry.startUpload("app");
});

test("a blob whose records do not fit leaves no bytes", async () => {
  const storage = memoryStorage();
  const registry = localRegistry({ storage, name: "r" });
  const { commit } = storage.metadata;
  storage.metadata.commit = async () => {
    throw new RegistryError("INSUFFICIENT_STORAGE", "disk full");
  };
  await expect(registry.putBlob("app", { digest: digest(10) }, bytes(10))).rejects.toThrow("disk full");
  expect((await storage.blobs.list({ limit: 9 })).items).toEqual([]);
  storage.metadata.commit = commit;
  await registry.putBlob("app", { digest: digest(10) }, bytes(10));
});

test("a blob whose records may have been written keeps its bytes: they may come to be needed", async () => {
  const storage = memoryStorage();
  const registry = localRegistry({ storage, name: "r" });
  const { commit } = storage.metadata;
  let written: () => Promise<boolean> = async () => false;
  storage.metadata.commit = async (...change) => {
    written = () => commit(...change);
    throw new Error("the answer was lost");
  };
  await expect(registry.putBlob("app", { digest: digest(10) }, bytes(10))).rejects.toThrow("lost");
  storage.metadata.commit = commit;
  // It happened after all, as after a crash.
  await written();
  expect(await bytesOf(await registry.getBlob("app", digest(10)))).toEqual(Buffer.alloc(10, 1));
});

test("expired sessions end many at a time, and one that somebody goes on with stays", async () => {
  const clock = fakeClock();
  const storage = memoryStorage();
  const registry = localRegistry({ storage, name: "r", clock, uploadTimeToLive: "1h", maxUploadsPerCaller: 2000 });
  const ids: string[] = [];
  for (let count = 0; count < 1200; count++) ids.push((await registry.startUpload("app")).id);
  await clock.advance(3_600_001 - 1000);
  const kept = ids[700] ?? "";
  await (await registry.resumeUpload("app", kept)).append(bytes(5));
  await clock.advance(1001);
  await registry.ready();
  expect((await storage.blobs.listStaged({ limit: 9 })).items.map(({ id }) => id)).toEqual([kept]);
});

test("a session whose bytes a crash has lost says so by its offset, and begins anew", async () => {
  const storage = memoryStorage();
  const first = localRegistry({ storage, name: "r" });
  const upload = await first.startUpload("app");
  await upload.append(bytes(10));
  // Killed after the bytes took their place, and before that was recorded.
  await storage.blobs.discardStaged(upload.id);
  const again = await localRegistry({ storage, name: "r" }).resumeUpload("app", upload.id);
  expect(again.offset).toBe(0);
  await again.append(bytes(10));
  await again.commit(digest(10));
  expect(await bytesOf(await first.getBlob("app", digest(10)))).toEqual(Buffer.alloc(10, 1));
});

test("a session whose bytes a crash has lost in its commit is not ended by the next commit", async () => {
  const storage = memoryStorage();
  const { commit } = storage.metadata;
  // Its time stands still.
  const upload = await localRegistry({ storage, name: "r", clock: fakeClock() }).startUpload("app");
  await upload.append(bytes(10));
  // Killed as it holds the right to write, before anything of the outcome is recorded.
  storage.metadata.commit = async (conditions, changes) => (changes.length === 1 ? commit(conditions, changes) : new Promise(() => {}));
  void upload.commit(digest(10));
  await eventually(async () => (await storage.blobs.list({ limit: 1 })).items.length === 1, "in its place");
  storage.metadata.commit = commit;

  const clock = fakeClock();
  await clock.advance(15_001);
  const again = await localRegistry({ storage, name: "r", clock }).resumeUpload("app", upload.id);
  await expect(again.commit(digest(10))).rejects.toMatchObject({ code: "RANGE_INVALID", detail: { offset: 0 } });
  await again.append(bytes(10), { start: 0 });
  await again.commit(digest(10));
});

test("those who start at once after a start of the process are counted with what others left", async () => {
  const storage = memoryStorage();
  const node = () => localRegistry({ storage, name: "r", maxUploads: 3 });
  for (let left = 0; left < 2; left++) await node().startUpload("app");
  const here = node();
  const outcomes = await Promise.allSettled(Array.from({ length: 5 }, () => here.startUpload("app")));
  expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
});

test("an upload that starts while others are counted is not forgotten", async () => {
  const storage = memoryStorage();
  const { commit } = storage.metadata;
  const registry = localRegistry({ storage, name: "r", maxUploads: 2 });
  await registry.ready();
  let begin = () => {};
  const counted = new Promise<void>((resolve) => {
    begin = resolve;
  });
  storage.metadata.commit = async (conditions, changes) => {
    if (changes.some((change) => "put" in change && change.put.kind === "upload")) await counted;
    return commit(conditions, changes);
  };
  const starting = [registry.startUpload("app"), registry.startUpload("app")];
  await registry.ready();
  begin();
  await Promise.all(starting);
  await expect(registry.startUpload("app")).rejects.toEqual(code("TOOMANYREQUESTS"));
});

test("what a caller holds is known after a start of the process", async () => {
  const storage = memoryStorage();
  const node = () => localRegistry({ storage, name: "r", maxUploadsPerCaller: 1, maxUploadBytesPerCaller: "10B" });
  const [ann, address] = [{ caller: { name: "ann" } }, { address: "192.0.2.1" }];
  for (const from of [ann, address]) await (await node().startUpload("app", from)).append(bytes(8));
  const later = node();
  for (const from of [ann, address]) {
    await expect(later.startUpload("app", from)).rejects.toEqual(code("TOOMANYREQUESTS"));
    await expect(later.putBlob("app", { digest: digest(1) }, bytes(1), from)).rejects.toEqual(code("TOOMANYREQUESTS"));
  }
  for (const from of [{ caller: { name: "bob" } }, { address: "192.0.2.2" }]) await later.startUpload("app", from);
});

test("sessions that expire soon are looked for as soon: what they hold does not wait for ten minutes", async () => {
  const clock = fakeClock();
  const storage = memoryStorage();
  const registry = localRegistry({ storage, name: "release", clock, uploadTimeToLive: "1m" });
  const left = await registry.startUpload("app");
  await clock.advance(61_000);
  const next = await registry.startUpload("app");
  expect((await storage.blobs.listStaged({ limit: 10 })).items.map(({ id }) => id)).toEqual([next.id]);
  await expect(registry.resumeUpload("app", left.id)).rejects.toMatchObject({ code: "BLOB_UPLOAD_UNKNOWN" });
});
