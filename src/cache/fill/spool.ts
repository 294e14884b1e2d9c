import { createReadStream } from "node:fs";
import { type FileHandle, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import type { AppendOptions, BlobStore, Staged } from "../../core/blob-store.js";
import { smallRead } from "../../core/read-size.js";

type SpoolOptions = AppendOptions & { readonly progress: (size: number) => void };

/** Where a blob's bytes arrive: readable from the first one on, and adopted by the store at the end. */
export interface Spool {
  readonly staged: Staged;
  /** Writes the source; `progress` is called with the number of bytes that can be read. */
  fill(source: AsyncIterable<Uint8Array>, o: SpoolOptions): Promise<void>;
  /** The end is inclusive. Only bytes that `progress` was called with can be read. */
  read(range: { start: number; end: number }): Readable;
  /** Frees what the store did not adopt. Idempotent. */
  discard(): Promise<void>;
}

/** Opens the store's own staging area where that can be read, so that nothing is written twice; else a temporary file beside it. */
export async function openSpool(blobs: BlobStore, id: string): Promise<Spool> {
  const staged = await blobs.stage(id);
  const { read } = staged;
  if (!blobs.capabilities.readStaged || !read) return fileSpool(staged);
  return {
    staged,
    fill: (source, o) => staged.append(source, o),
    read: (range) => read.call(staged, range),
    discard: () => staged.abort(),
  };
}

/** An object store cannot read what is only staged: readers follow a temporary file while the parts are sent. */
async function fileSpool(staged: Staged): Promise<Spool> {
  const folder = await mkdtemp(join(tmpdir(), "manifold-spool-"));
  const path = join(folder, "blob");
  const file = await open(path, "w");
  let freed: Promise<void> | undefined;
  const free = async () => {
    await file.close();
    await rm(folder, { recursive: true, force: true });
  };
  return {
    staged,
    fill: (source, { progress, ...o }) => staged.append(teed(source, file, progress), o),
    read: (range) => createReadStream(path, { ...range, highWaterMark: smallRead }),
    async discard() {
      freed ??= free();
      await Promise.all([freed, staged.abort()]);
    },
  };
}

async function* teed(source: AsyncIterable<Uint8Array>, file: FileHandle, progress: (size: number) => void): AsyncGenerator<Uint8Array> {
  let size = 0;
  for await (const chunk of source) {
    await file.writev([chunk], size);
    size += chunk.byteLength;
    progress(size);
    yield chunk;
  }
}
