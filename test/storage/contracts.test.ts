import { fileBlobStore, sqliteMetadata } from "oci-manifold/storage/files";
import { memoryBlobStore, memoryMetadataStore } from "oci-manifold/storage/memory";
import { blobStoreContract, metadataStoreContract, PartBacking, partBlobStore, transactionMetadataStore } from "oci-manifold/testing";
import { describe, test } from "vitest";
import { foreignFile } from "./foreign-file.js";
import { freshForEveryCall } from "./fresh-for-every-call.js";
import { temporaryFolder } from "./temporary-folder.js";

const nothing = async () => {};

describe("blob store: memory", () => {
  blobStoreContract({ test, capabilities: { readStaged: true }, create: async () => ({ store: memoryBlobStore(), dispose: nothing }) });
});

describe("blob store: files", () => {
  const create = async () => {
    const folder = await temporaryFolder();
    return { store: fileBlobStore(folder.path), dispose: folder.remove };
  };
  blobStoreContract({ test, capabilities: { readStaged: true }, create, foreign: foreignFile });
});

describe("blob store: files, another process for every request", () => {
  const create = async () => {
    const folder = await temporaryFolder();
    const capabilities = { readStaged: false, presign: false };
    return { store: { ...freshForEveryCall(() => fileBlobStore(folder.path)), capabilities }, dispose: folder.remove };
  };
  blobStoreContract({ test, create });
});

describe("blob store: parts", () => {
  blobStoreContract({ test, create: async () => ({ store: partBlobStore(), dispose: nothing }) });
});

describe("blob store: parts, another node for every request", () => {
  const create = async () => {
    const backing = new PartBacking();
    return { store: freshForEveryCall(() => partBlobStore(backing)), dispose: nothing };
  };
  blobStoreContract({ test, create });
});

describe("metadata store: memory", () => {
  metadataStoreContract({ test, create: async () => ({ store: memoryMetadataStore(), dispose: nothing }) });
});

describe("metadata store: SQLite", () => {
  const create = async () => {
    const folder = await temporaryFolder();
    return { store: sqliteMetadata(folder.path), dispose: folder.remove };
  };
  metadataStoreContract({ test, create });
});

describe("metadata store: transactions", () => {
  metadataStoreContract({ test, create: async () => ({ store: transactionMetadataStore(), dispose: nothing }) });
});
