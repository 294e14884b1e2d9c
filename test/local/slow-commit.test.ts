import { randomBytes } from "node:crypto";
import { localRegistry } from "oci-manifold";
import { type BlobStore, chunksOf, digestOf } from "oci-manifold/extend";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { bytesOf } from "../fixtures/read.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

type Staging = Pick<BlobStore, "stage" | "reopen">;

/** A file store whose first commit waits until it is told to go on, as an fsync of a large layer on a slow disk does. */
function slowStore() {
  const inner = fileBlobStore(temporaryFolder());
  let goOn = () => {};
  const gate = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  let began = () => {};
  const committing = new Promise<void>((resolve) => {
    began = resolve;
  });
  const slowed = async (staging: Promise<Awaited<ReturnType<Staging["stage"]>>>) => {
    const staged = await staging;
    const { commit } = staged;
    staged.commit = async (digest) => {
      began();
      await gate;
      return commit.call(staged, digest);
    };
    return staged;
  };
  const blobs: BlobStore = { ...inner, stage: (id) => slowed(inner.stage(id)), reopen: (id, state) => slowed(inner.reopen(id, state)) };
  return { blobs, goOn, committing };
}

test("nobody writes to an upload while it is committed, however long that takes", async () => {
  const { blobs, goOn, committing } = slowStore();
  const clock = fakeClock();
  const registry = localRegistry({ storage: { blobs, metadata: memoryStorage().metadata }, name: "release", clock });
  const bytes = randomBytes(200_000);
  const digest = digestOf(bytes);
  const upload = await registry.startUpload("app");
  await upload.append(chunksOf(bytes));
  const commit = upload.commit(digest);
  await committing;
  for (let seconds = 0; seconds < 60; seconds += 4) {
    await clock.advance(4000);
    const other = await registry.resumeUpload("app", upload.id);
    await expect(other.append(chunksOf(Buffer.alloc(1000)))).rejects.toMatchObject({ code: "UNAVAILABLE" });
  }
  goOn();
  expect((await commit).size).toBe(bytes.byteLength);
  expect((await bytesOf(await registry.getBlob("app", digest))).equals(bytes)).toBe(true);
});

test("who lost the right to write records nothing, and what he put in its place is gone", async () => {
  const { blobs, goOn, committing } = slowStore();
  const { metadata } = memoryStorage();
  const clock = fakeClock();
  const registry = localRegistry({ storage: { blobs, metadata }, name: "release", clock });
  const bytes = randomBytes(100_000);
  const upload = await registry.startUpload("app");
  await upload.append(chunksOf(bytes));
  const commit = upload.commit(digestOf(bytes)).catch((error: unknown) => error);
  await committing;
  // As another process would, after this one did not run for longer than its right lasts.
  const [record] = await metadata.page({ kind: "upload", under: ["release"], limit: 1 });
  if (!record) throw new Error("no upload");
  await metadata.commit([], [{ put: record.key, value: { ...record.value, writer: { token: "other", expiresAt: clock.now() + 15_000 } } }]);
  goOn();
  expect(await commit).toMatchObject({ code: "UNAVAILABLE" });
  expect((await registry.resolveBlob("app", digestOf(bytes))).kind).toBe("absent");
  expect((await blobs.list({ limit: 9 })).items).toEqual([]);
});
