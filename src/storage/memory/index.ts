/**
 * Storage in memory, for tests and for trying things out: `memoryStorage`, and its halves `memoryBlobStore` and `memoryMetadataStore`.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const registry = localRegistry({ storage: memoryStorage(), name: "release" });
 * await registry.ready();
 * await registry.close();
 * ```
 */
import type { RuntimeOptions } from "../../core/events.js";
import type { Storage } from "../../core/metadata-store.js";
import { memoryBlobStore } from "./memory-blobs.js";
import { memoryMetadataStore } from "./memory-metadata.js";

export { memoryBlobStore } from "./memory-blobs.js";
export { memoryMetadataStore } from "./memory-metadata.js";

/**
 * Storage in memory, gone with the process: for tests and for trying things out. Nothing bounds it but the process's memory.
 *
 * @param o.clock says when blobs were last modified; the system's by default.
 *
 * @example
 * ```ts
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * await storage.metadata.ready();
 * ```
 */
export function memoryStorage(o: RuntimeOptions = {}): Storage {
  return { blobs: memoryBlobStore(o), metadata: memoryMetadataStore() };
}
