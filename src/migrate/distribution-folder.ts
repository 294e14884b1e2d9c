import { constants } from "node:fs";
import { type FileHandle, open, opendir, realpath } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { ForeignBytes } from "../core/blob-store.js";
import type { DistributionStorage } from "../core/distribution-storage.js";
import { errorText, RegistryError } from "../core/errors.js";
import { firstOf, type Page, type PageRequest, pageOf } from "../core/page.js";
import { largeRead } from "../core/read-size.js";
import { leadsNowhere } from "../core/system-code.js";
import { isWithin } from "../layout/is-within.js";

/**
 * The folder of a docker-registry (v2 or v3) with the `filesystem` driver, for `adoptDistribution`. It is only read. The tree itself, its `blobs` and its `repositories`
 * may be symbolic links; those below, which docker-registry does not make, are not followed out of the tree, and repositories that are such are passed over; a tag that is one is taken.
 *
 * @param path the `rootdirectory` of its configuration, often `/var/lib/registry`: the folder with `docker/registry/v2`.
 * @throws RegistryError from its methods: UNKNOWN for a file or folder that cannot be read.
 *
 * @example
 * ```ts
 * import { distributionFolder } from "oci-manifold/migrate";
 * const old = distributionFolder("/var/lib/registry");
 * console.log(old.place);
 * ```
 */
export function distributionFolder(path: string): DistributionStorage {
  return new DistributionFolder(join(resolve(path), "docker", "registry", "v2"));
}

class DistributionFolder implements DistributionStorage {
  readonly place: string;

  constructor(place: string) {
    this.place = place;
  }

  async list(path: string, { after, limit }: PageRequest, what = "folders"): Promise<Page<string>> {
    const folder = await this.#real(path);
    if (folder === undefined) return { items: [] };
    try {
      // In the order that names have with a "/" behind them, as in a bucket.
      const page = { limit: limit + 1, ...(after !== undefined && { after: `${after}/` }) };
      const entries = await opendir(folder, { bufferSize: 1024 });
      const prefixes = await firstOf(entries, page, (entry) => (entry.isDirectory() || what === "entries" ? `${entry.name}/` : undefined));
      return pageOf(
        prefixes.map((prefix) => prefix.slice(0, -1)),
        limit,
        (name) => name,
      );
    } catch (error) {
      if (leadsNowhere(error)) return { items: [] };
      throw unreadable(folder, error);
    }
  }

  async read(path: string, limit: number): Promise<Uint8Array | undefined> {
    return this.#withFile(path, async (file, size, name) => {
      if (size > limit) throw new RegistryError("SIZE_INVALID", `${name} has ${size} bytes, more than ${limit}`);
      const bytes = Buffer.alloc(size);
      let filled = 0;
      for (let got = 1; got > 0 && filled < size; filled += got) got = (await file.read(bytes, filled, size - filled, filled)).bytesRead;
      // It may be written anew just now.
      return bytes.subarray(0, filled);
    });
  }

  size(path: string): Promise<number | undefined> {
    return this.#withFile(path, async (_, size) => size);
  }

  async *open(path: string): AsyncGenerator<Uint8Array> {
    const opened = await this.#opened(path);
    if (!opened) throw new RegistryError("BLOB_UNKNOWN", `there is no file ${join(this.place, path)}`);
    const { file, name } = opened;
    try {
      for (;;) {
        const chunk = Buffer.allocUnsafeSlow(largeRead);
        const { bytesRead } = await file.read(chunk, 0, largeRead, null).catch((error: unknown) => Promise.reject(unreadable(name, error)));
        if (bytesRead === 0) return;
        yield bytesRead === largeRead ? chunk : chunk.subarray(0, bytesRead);
      }
    } finally {
      await file.close();
    }
  }

  async foreign(path: string): Promise<ForeignBytes | undefined> {
    const real = await this.#real(path);
    return real === undefined ? undefined : { kind: "file", path: real };
  }

  async #withFile<T>(path: string, work: (file: FileHandle, size: number, name: string) => Promise<T>): Promise<T | undefined> {
    const opened = await this.#opened(path);
    if (!opened) return undefined;
    try {
      return await work(opened.file, opened.size, opened.name);
    } finally {
      await opened.file.close();
    }
  }

  async #opened(path: string): Promise<{ file: FileHandle; size: number; name: string } | undefined> {
    const name = await this.#real(path);
    if (name === undefined) return undefined;
    let file: FileHandle | undefined;
    try {
      // Never waits for whoever writes into a pipe.
      file = await open(name, constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0));
      const stats = await file.stat();
      if (stats.isFile()) return { file, size: stats.size, name };
    } catch (error) {
      await file?.close();
      if (leadsNowhere(error)) return undefined;
      throw unreadable(name, error);
    }
    await file.close();
    throw new RegistryError("UNKNOWN", `${name} is no regular file`);
  }

  /** The path without symbolic links; `undefined` when nothing is there. @throws RegistryError UNKNOWN when it leads out of the tree. */
  async #real(path: string): Promise<string | undefined> {
    const name = join(this.place, path);
    try {
      const real = await realpath(name);
      const [top = ""] = path.split("/");
      // Whoever runs the registry may have put these on other disks; everything below is made by its clients.
      const root = await realpath(join(this.place, top));
      if (real === root || isWithin(root, real)) return real;
    } catch (error) {
      if (leadsNowhere(error)) return undefined;
      throw unreadable(name, error);
    }
    throw new RegistryError("UNKNOWN", `${name} leads out of its tree by a symbolic link`);
  }
}

function unreadable(path: string, cause: unknown): RegistryError {
  return new RegistryError("UNKNOWN", `${path} cannot be read: ${errorText(cause)}`, { cause });
}
