/**
 * Storage in a folder: `fileStorage`, and its halves `fileBlobStore` and `sqliteMetadata`, which may be used with other halves.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { fileStorage } from "oci-manifold/storage/files";
 *
 * async function open(folder: string) {
 *   const registry = localRegistry({ storage: fileStorage(folder), name: "release" });
 *   await registry.ready(); // the folder is there, and can be written
 *   return registry;
 * }
 * ```
 */
import type { Storage } from "../../core/metadata-store.js";
import { type FileBlobStoreOptions, fileBlobStoreOf } from "./file-blobs.js";
import { type SqliteMetadataOptions, sqliteMetadata } from "./sqlite-metadata.js";

export { type FileBlobStoreOptions, fileBlobStore } from "./file-blobs.js";
export type { SqliteDatabase, SqliteStatement } from "./sqlite-driver.js";
/** Options of both halves. */
export interface FileStorageOptions extends FileBlobStoreOptions, SqliteMetadataOptions {}

export { type SqliteMetadataOptions, sqliteMetadata } from "./sqlite-metadata.js";

/**
 * Storage in a folder: blobs as files, metadata in one SQLite database beside them. What was answered survives a crash and a power loss. Several
 * processes on one machine may share the folder. Nothing is opened before the first use; `ready` of both halves tells early what is wrong.
 *
 * @param dir created when it is missing.
 * @throws RegistryError from its methods: UNAVAILABLE when the folder or database cannot be used or there is no SQLite driver,
 *   INSUFFICIENT_STORAGE when the disk is full.
 *
 * @example
 * ```ts
 * import { fileStorage } from "oci-manifold/storage/files";
 * const storage = fileStorage("./data");
 * console.log(storage.blobs.capabilities.readStaged);
 * ```
 */
export function fileStorage(dir: string, o: FileStorageOptions = {}): Storage {
  const metadata = sqliteMetadata(dir, o);
  // A database that is made beside blobs is taken for one that was lost.
  return { blobs: fileBlobStoreOf(dir, o, () => metadata.ready()), metadata };
}
