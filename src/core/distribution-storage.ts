import type { ForeignBytes } from "./blob-store.js";
import type { Page, PageRequest } from "./page.js";

/**
 * What docker-registry (distribution, v2 and v3) keeps, as far as it has to be read. Paths are relative to its `docker/registry/v2`, with "/" between names.
 * Whoever wrote it may still be writing, so anything may appear and vanish; and nothing in it is to be trusted.
 *
 * One file that cannot be read is a RegistryError with another code than UNAVAILABLE; that one says that nothing can be read at the moment.
 */
export interface DistributionStorage {
  /** For messages: the folder or the bucket. */
  readonly place: string;
  /**
   * The folders directly below a path, in the order that their names have with a "/" behind them, as object stores list them. Nothing where there is no such path.
   *
   * @param what `entries`: files and links too, where there are such beside folders. Default: folders alone.
   */
  list(path: string, page: PageRequest, what?: "folders" | "entries"): Promise<Page<string>>;
  /** A small file. `undefined` when there is none. @throws RegistryError SIZE_INVALID when it has more than `limit` bytes. */
  read(path: string, limit: number): Promise<Uint8Array | undefined>;
  /** A file's size. `undefined` when there is no such file. */
  size(path: string): Promise<number | undefined>;
  /** A file as a stream that opens nothing before it is read. It fails with BLOB_UNKNOWN when there is no such file. */
  open(path: string): AsyncIterable<Uint8Array>;
  /** Where a blob store may take the bytes of a file from by itself. */
  foreign(path: string): Promise<ForeignBytes | undefined>;
}
