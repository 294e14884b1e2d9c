import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { partBlobStore } from "oci-manifold/testing";
import { test } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { listening } from "../http/support.js";
import { modelledUploads } from "../http/upload-model.js";

test.each([
  ["memory", () => memoryStorage().blobs],
  ["files", () => fileBlobStore(temporaryFolder())],
  ["parts of an object store", () => partBlobStore()],
])("2,000 histories of uploads over %s", async (_, blobs) => {
  await modelledUploads(blobs, listening, 2000);
});
