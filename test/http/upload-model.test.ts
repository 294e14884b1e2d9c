import { localRegistry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { partBlobStore } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { listening } from "./support.js";
import { modelledUploads } from "./upload-model.js";

describe.each([
  ["memory", () => memoryStorage().blobs],
  ["files", () => fileBlobStore(temporaryFolder())],
  ["parts of an object store", () => partBlobStore()],
])("uploads over %s", (_, blobs) => {
  test("are as the model says, whatever clients do", async () => {
    await modelledUploads(blobs, listening, 60);
  });

  // Found by the model, rarely.
  test("go on in one process after another one wrote nothing to them", async () => {
    const storage = { blobs: blobs(), metadata: memoryStorage().metadata };
    const [one, other] = [localRegistry({ storage, name: "model" }), localRegistry({ storage, name: "model" })];
    const { id } = await one.startUpload("app");
    const append = async (registry: typeof one, text: string) =>
      (await registry.resumeUpload("app", id)).append(chunksOf(Buffer.from(text)));
    expect([await append(one, "hello"), await append(other, ""), await append(one, " world")]).toEqual([5, 5, 11]);
    const digest = digestOf(Buffer.from("hello world"));
    expect(await (await other.resumeUpload("app", id)).commit(digest)).toMatchObject({ digest, size: 11 });
  });
});
