import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import type { BlobStore, Staged } from "../../core/blob-store.js";
import { systemClock } from "../../core/clock.js";
import type { Digest } from "../../core/digest.js";
import { RegistryError } from "../../core/errors.js";
import type { RuntimeOptions } from "../../core/events.js";
import { type PageRequest, pageOf } from "../../core/page.js";
import { abortable } from "../abortable.js";
import { ChunkList } from "./chunk-list.js";
import { SortedKeys } from "./sorted-keys.js";

interface Upload {
  chunks: ChunkList;
  modifiedAt: number;
}

/**
 * Blobs in memory, gone with the process: for tests and small fixtures, as nothing bounds it but the process's memory. `close` keeps the blobs.
 *
 * @param o.clock says when a blob or upload was last modified; the system's by default.
 * @throws RegistryError from its methods: BLOB_UPLOAD_UNKNOWN for an upload that was aborted, discarded or committed. Reading a location that is
 *   unknown fails on the stream with BLOB_UNKNOWN.
 *
 * @example
 * ```ts
 * import { memoryBlobStore } from "oci-manifold/storage/memory";
 * const blobs = memoryBlobStore();
 * const staged = await blobs.stage("0123456789abcdef0123456789abcdef");
 * await staged.abort();
 * ```
 */
export function memoryBlobStore({ clock = systemClock }: RuntimeOptions = {}): BlobStore {
  const committed = new Map<string, Upload>();
  const locations = new SortedKeys();
  const uploads = new Map<string, Upload>();

  function open(id: string): Upload {
    const upload = uploads.get(id);
    if (!upload) throw new RegistryError("BLOB_UPLOAD_UNKNOWN", `no upload ${id} is staged`);
    return upload;
  }

  const staged = (id: string, upload: Upload): Staged => ({
    get size() {
      return upload.chunks.size;
    },
    get state() {
      return { size: upload.chunks.size };
    },
    async append(source, o) {
      for await (const chunk of abortable(source, o?.signal)) {
        open(id);
        upload.chunks.push(chunk);
        upload.modifiedAt = clock.now();
        o?.progress?.(upload.chunks.size);
      }
    },
    async commit(digest: Digest) {
      open(id);
      uploads.delete(id);
      const location = `${digest.replace(":", "/")}.${randomBytes(8).toString("hex")}`;
      committed.set(location, { chunks: upload.chunks, modifiedAt: clock.now() });
      locations.add(location);
      return location;
    },
    async abort() {
      if (uploads.get(id) === upload) uploads.delete(id);
    },
    read({ start, end }) {
      return Readable.from(upload.chunks.range(start, end), { objectMode: false });
    },
  });

  return {
    capabilities: { readStaged: true, presign: false },
    async stage(id) {
      if (uploads.has(id)) throw new RegistryError("BLOB_UPLOAD_INVALID", `the upload ${id} is already staged`);
      const upload = { chunks: new ChunkList(), modifiedAt: clock.now() };
      uploads.set(id, upload);
      return staged(id, upload);
    },
    async reopen(id, state) {
      const upload = open(id);
      if (typeof state.size === "number") upload.chunks.truncate(state.size);
      return staged(id, upload);
    },
    read(location, o) {
      return Readable.from(chunksOf(committed.get(location), location, o?.range), { objectMode: false });
    },
    async delete(location) {
      committed.delete(location);
      locations.delete(location);
    },
    async list({ after, limit }: PageRequest) {
      const names = locations.slice(after === undefined ? "" : `${after}\0`, undefined, limit + 1);
      const items = names.flatMap((location) => {
        const blob = committed.get(location);
        return blob ? [{ location, size: blob.chunks.size, modifiedAt: blob.modifiedAt }] : [];
      });
      return pageOf(items, limit, (item) => item.location);
    },
    async listStaged({ after = "", limit }: PageRequest) {
      const items = [...uploads].map(([id, { modifiedAt }]) => ({ id, modifiedAt }));
      const later = items.filter(({ id }) => id > after).sort((a, b) => (a.id < b.id ? -1 : 1));
      return pageOf(later, limit, (item) => item.id);
    },
    async discardStaged(id) {
      uploads.delete(id);
    },
    async ready() {},
    async close() {},
  };
}

async function* chunksOf(blob: Upload | undefined, location: string, range: { start: number; end: number } | undefined) {
  if (!blob) throw new RegistryError("BLOB_UNKNOWN", `no blob is stored at ${location}`);
  yield* blob.chunks.range(range?.start ?? 0, range?.end ?? blob.chunks.size - 1);
}
