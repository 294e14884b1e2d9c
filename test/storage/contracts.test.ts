import { fileBlobStore, sqliteMetadata } from "oci-manifold/storage/files";
import { memoryBlobStore, memoryMetadataStore } from "oci-manifold/storage/memory";
import { blobStoreContract, metadataStoreContract, PartBacking, partBlobStore, transactionMetadataStore } from "oci-manifold/testing";
import { describe, test } from "vitest";
import type { BlobStore, Staged, StagedState } from "../../src/core/blob-store.js";
import { temporaryFolder } from "./temporary-folder.js";

const nothing = async () => {};

/** Every request of an upload comes to an instance that has never seen it, and knows only what went through JSON. */
function freshForEveryCall(instance: () => BlobStore): BlobStore {
  const restless = (id: string, first: Staged): Staged => {
    let seen = { size: first.size, state: first.state };
    const reopened = () => instance().reopen(id, JSON.parse(JSON.stringify(seen.state)) as StagedState);
    let last: Staged | undefined;
    return {
      get size() {
        return seen.size;
      },
      get state() {
        return seen.state;
      },
      async append(source, o) {
        const staged = await reopened();
        try {
          await staged.append(source, o);
        } finally {
          seen = { size: staged.size, state: staged.state };
        }
      },
      async commit(digest) {
        last = await reopened();
        return last.commit(digest);
      },
      async abort() {
        if (last) await last.abort();
        else await instance().discardStaged(id);
      },
    };
  };
  return {
    ...instance(),
    stage: async (id) => restless(id, await instance().stage(id)),
    reopen: async (id, state) => restless(id, await instance().reopen(id, state)),
  };
}

describe("blob store: memory", () => {
  blobStoreContract({ test, capabilities: { readStaged: true }, create: async () => ({ store: memoryBlobStore(), dispose: nothing }) });
});

describe("blob store: files", () => {
  const create = async () => {
    const folder = await temporaryFolder();
    return { store: fileBlobStore(folder.path), dispose: folder.remove };
  };
  blobStoreContract({ test, capabilities: { readStaged: true }, create });
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
