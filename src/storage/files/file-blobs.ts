import { randomBytes } from "node:crypto";
import { open, rm, statfs } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Readable } from "node:stream";
import type { BlobStore } from "../../core/blob-store.js";
import { systemClock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import { noEvents, type RuntimeOptions, safeSink } from "../../core/events.js";
import { systemCode } from "../../core/system-code.js";
import { diskError, isMissing } from "./disk-errors.js";
import { FileReader } from "./file-reader.js";
import { folderPage } from "./folder-pages.js";
import { Folders } from "./folders.js";
import { takeFile } from "./foreign-file.js";
import { FreeSpaceWatch } from "./free-space.js";
import { listLocations, locationPath } from "./locations.js";
import { StagedFile } from "./staged-file.js";

/** A twentieth: a cache over the folder gives up what it keeps before, from a tenth on. */
const defaultWarning = 0.05;

/** `clock` is what files are stamped with; default: the file system's own time. `events` takes `fault` events. */
export interface FileBlobStoreOptions extends RuntimeOptions {
  /** A `fault` event warns when less than this part of the volume is free, from 0 to 1. 0: never. Default: 0.05. */
  readonly freeSpaceWarning?: number;
}

/**
 * Blobs as files below `dir`, created when it is missing: staged in `uploads/`, committed to `blobs/<algorithm>/<two digits>/`. The file `reserve`
 * keeps 1 MiB for what a cache must write when it evicts on a full disk. A committed blob survives a power loss. Several processes on one machine may share the folder; on a network file system that depends on its `rename` and `fsync`.
 *
 * @param dir both subfolders must be on one file system.
 * @throws RegistryError from its methods: UNAVAILABLE when the folder cannot be created or written to, INSUFFICIENT_STORAGE when the disk is
 *   full, BLOB_UPLOAD_UNKNOWN for an upload that is gone. Reading a location that is gone fails on the stream with BLOB_UNKNOWN.
 *
 * @example
 * ```ts
 * import { fileBlobStore } from "oci-manifold/storage/files";
 * const blobs = fileBlobStore("./data");
 * console.log(blobs.capabilities.readStaged);
 * ```
 */
export function fileBlobStore(dir: string, o: FileBlobStoreOptions = {}): BlobStore {
  return fileBlobStoreOf(dir, o);
}

/** @param first what must be there before there can be blobs. */
export function fileBlobStoreOf(dir: string, o: FileBlobStoreOptions, first?: () => Promise<void>): BlobStore {
  const clock = o.clock === systemClock ? undefined : o.clock;
  // Resolved now: the process may change its working directory later.
  const folders = new Folders(resolve(dir), first);
  const space = new FreeSpaceWatch(folders.dir, {
    events: safeSink(o.events ?? noEvents),
    below: o.freeSpaceWarning ?? defaultWarning,
    ...(o.clock && { clock: o.clock }),
  });
  const explained = <T>(work: Promise<T>): Promise<T> => work.catch((error) => Promise.reject(diskError(folders.dir, error)));

  return {
    capabilities: { readStaged: true, presign: false },

    async stage(id) {
      const path = folders.upload(id);
      await folders.prepare();
      space.look();
      try {
        const file = await open(path, "wx");
        try {
          if (clock) await file.utimes(clock.now() / 1000, clock.now() / 1000);
        } finally {
          await file.close();
        }
      } catch (error) {
        if (systemCode(error) === "EEXIST")
          throw new RegistryError("BLOB_UPLOAD_INVALID", `the upload ${id} is already staged`, { cause: error });
        throw (isMissing(error) && folders.whyLeft()) || diskError(folders.dir, error);
      }
      return new StagedFile(id, folders, 0, clock);
    },

    async reopen(id, state) {
      const known = typeof state.size === "number" ? state.size : 0;
      try {
        const file = await open(folders.upload(id), "r+");
        try {
          const { size } = await file.stat();
          // What lies beyond the state was never answered for: it may be half a write.
          if (size > known) await file.truncate(known);
          return new StagedFile(id, folders, Math.min(size, known), clock);
        } finally {
          await file.close();
        }
      } catch (error) {
        if (isMissing(error))
          throw folders.whyLeft() ?? new RegistryError("BLOB_UPLOAD_UNKNOWN", `no upload ${id} is staged`, { cause: error });
        throw diskError(folders.dir, error);
      }
    },

    read(location, o) {
      try {
        const path = locationPath(folders.dir, location);
        return new FileReader({ paths: () => [path], whole: true, whyLeft: () => folders.whyLeft(), ...(o?.range && { range: o.range }) });
      } catch (error) {
        return new Readable({
          read() {
            this.destroy(error as Error);
          },
        });
      }
    },

    async delete(location) {
      await explained(rm(locationPath(folders.dir, location), { force: true }));
    },

    list: (page) => explained(listLocations(folders.dir, page, { stamped: clock !== undefined })),

    async listStaged(page) {
      const { items, ...rest } = await explained(folderPage(folders.uploads, page));
      return { items: items.map(({ name, modifiedAt }) => ({ id: name, modifiedAt })), ...rest };
    },

    async discardStaged(id) {
      await explained(rm(folders.upload(id), { force: true }));
    },

    async copyFrom(source, digest) {
      return source.kind === "file" ? takeFile(folders, source.path, digest, clock) : undefined;
    },

    async space() {
      const { bsize, blocks, bavail } = await explained(statfs(folders.dir));
      return { total: blocks * bsize, free: bavail * bsize };
    },

    async now() {
      if (clock) return clock.now();
      await folders.prepare();
      return explained(timeOf(folders.dir));
    },

    ready: () => folders.prepare(),
    close: async () => folders.close(),
  };
}

/** The time that the file system gives a new file: on a volume of another machine it is that one's. */
async function timeOf(dir: string): Promise<number> {
  const path = join(dir, `clock.${randomBytes(8).toString("hex")}`);
  try {
    const file = await open(path, "wx");
    try {
      return (await file.stat()).mtimeMs;
    } finally {
      await file.close();
    }
  } finally {
    await rm(path, { force: true });
  }
}
