import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { copyFile, type FileHandle, link, lstat, open, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Clock } from "../../core/clock.js";
import type { Digest } from "../../core/digest.js";
import { RegistryError } from "../../core/errors.js";
import { systemCode } from "../../core/system-code.js";
import { diskError, isMissing } from "./disk-errors.js";
import { type Folders, syncFolder } from "./folders.js";
import { newLocation } from "./locations.js";

// Never through a symbolic link, and never waiting for whoever writes into a pipe. Windows knows neither.
const readOnly = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);

/**
 * A file of another program as a blob of this store: the same file under a second name, or a copy where the system refuses that. `undefined` for what is no
 * regular file.
 *
 * @param clock only where it is not the system's. A file that two programs know cannot be stamped with it, so it is copied.
 * @throws RegistryError BLOB_UNKNOWN when there is no such file, INSUFFICIENT_STORAGE when the disk is full.
 */
export async function takeFile(folders: Folders, source: string, digest: Digest, clock?: Clock): Promise<string | undefined> {
  await folders.prepare();
  const [algorithm = "", hex = ""] = digest.split(":");
  const file = await opened(source);
  if (!file) return undefined;
  try {
    if (!(await file.stat()).isFile()) return undefined;
    await folders.shard(algorithm, hex);
    const location = newLocation(algorithm, hex);
    const target = join(folders.dir, location);
    if (clock || !(await linked(source, target, file))) await copied(folders, source, target, file, clock);
    await syncFolder(dirname(target));
    return location;
  } catch (error) {
    throw isMissing(error) ? gone(source, error) : diskError(folders.dir, error);
  } finally {
    await file.close();
  }
}

async function opened(source: string): Promise<FileHandle | undefined> {
  try {
    return await open(source, readOnly);
  } catch (error) {
    if (isMissing(error)) throw gone(source, error);
    // A symbolic link, or a socket.
    if (systemCode(error) === "ELOOP" || systemCode(error) === "ENXIO") return undefined;
    throw error;
  }
}

/** @returns false when the system refuses: another file system, a file of somebody else, too many links, no links at all. */
async function linked(source: string, target: string, file: FileHandle): Promise<boolean> {
  try {
    await link(source, target);
  } catch (error) {
    if (isMissing(error)) throw error;
    return false;
  }
  try {
    // The name may lead to something else by now than what was looked at.
    if (!(await isSame(target, file))) {
      await rm(target, { force: true });
      return false;
    }
    await syncBytes(target);
    return true;
  } catch (error) {
    await rm(target, { force: true });
    throw error;
  }
}

async function copied(folders: Folders, source: string, target: string, file: FileHandle, clock: Clock | undefined): Promise<void> {
  const id = randomBytes(16).toString("hex");
  const path = folders.upload(id);
  try {
    await copyFile(source, path, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
    const copy = await open(path, process.platform === "win32" ? "r+" : "r");
    try {
      const [{ size }, { size: expected }] = await Promise.all([copy.stat(), file.stat()]);
      if (size !== expected)
        throw new RegistryError("UNKNOWN", `${source} changed while it was copied: ${size} bytes instead of ${expected}`);
      if (clock) await copy.utimes(clock.now() / 1000, clock.now() / 1000);
      await copy.sync();
    } finally {
      await copy.close();
    }
    await rename(path, target);
    await syncFolder(folders.uploads);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  }
}

async function isSame(target: string, file: FileHandle): Promise<boolean> {
  const [here, there] = await Promise.all([lstat(target, { bigint: true }), file.stat({ bigint: true })]);
  return here.isFile() && here.ino === there.ino && here.dev === there.dev;
}

/** The other program may never have synced it. */
async function syncBytes(path: string): Promise<void> {
  const file = await open(path, process.platform === "win32" ? "r+" : "r");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

function gone(source: string, cause: unknown): RegistryError {
  return new RegistryError("BLOB_UNKNOWN", `there is no file ${source}`, { cause });
}
