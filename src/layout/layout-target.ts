import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { open, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Clock } from "../core/clock.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, Hasher } from "../core/digest.js";
import { errorText, isRegistryError, RegistryError } from "../core/errors.js";
import { systemCode } from "../core/system-code.js";

/** An OCI image layout that is being written. */
export interface LayoutTarget {
  /** How many blobs may be added at a time: an archive takes one after the other. */
  readonly parallel: boolean;
  has(content: Descriptor): Promise<boolean>;
  /** Adds a blob or manifest. @throws RegistryError DIGEST_INVALID or SIZE_INVALID when the bytes are others; nothing of them is left. */
  add(content: Descriptor, source: AsyncIterable<Uint8Array>): Promise<void>;
  /**
   * Makes it whole and durable: only now readers see the images.
   * @param docker makes `manifest.json` of the one that is there.
   */
  finish(docker: (before: Uint8Array | undefined) => Uint8Array): Promise<void>;
  /** Removes what is not whole. */
  abandon(cause: unknown): Promise<void>;
}

/** What has this name is not whole yet. Those that a killed process left are removed when nobody can be writing them any more. */
const partial = /^\.oci-layout-[a-f0-9]{16}\.partial$/;
const longestWrite = 24 * 60 * 60 * 1000;

function partialName(): string {
  return `.oci-layout-${randomBytes(8).toString("hex")}.partial`;
}

export async function sweepPartial(folder: string, clock: Clock): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!partial.test(name)) continue;
    const path = join(folder, name);
    const left = await stat(path).catch(() => undefined);
    if (left && clock.now() - left.mtimeMs > longestWrite) await rm(path, { force: true });
  }
}

export function isPartial(name: string): boolean {
  return partial.test(name);
}

/** Writes a file under another name in `folder`, and gives it its name when it is whole and durable. */
export async function placeFile(target: string, folder: string, source: AsyncIterable<Uint8Array>): Promise<void> {
  const temporary = join(folder, partialName());
  try {
    // Not through a link that somebody put there.
    const file = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o644);
    try {
      await writeFile(file, source);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true });
    throw unwritable(target, error);
  }
}

/** A new or renamed file survives a power loss only once its folder was synced too. Windows keeps a journal for that. */
export async function syncLayoutFolder(path: string): Promise<void> {
  if (process.platform === "win32") return;
  try {
    const folder = await open(path, "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  } catch (error) {
    // What this process may pass through but not read was there before.
    if (systemCode(error) !== "EACCES" && systemCode(error) !== "EPERM") throw unwritable(path, error);
  }
}

export function unwritable(path: string, cause: unknown): unknown {
  const code = systemCode(cause);
  if (isRegistryError(cause) || code === undefined) return cause;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new RegistryError("INSUFFICIENT_STORAGE", `the disk is full at ${dirname(path)}: free space there, then try again`, { cause });
  }
  return new RegistryError("UNAVAILABLE", `cannot write ${path}: ${errorText(cause)}`, { cause });
}

/** The same bytes, an error when they are not what the descriptor names. */
export async function* verified({ digest, size }: Descriptor, source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const hasher = new Hasher(algorithmOf(digest));
  for await (const chunk of source) {
    hasher.update(chunk);
    if (hasher.size > size) break;
    yield chunk;
  }
  if (hasher.size !== size) throw new RegistryError("SIZE_INVALID", `${digest} came with other than its ${size} bytes`);
  if (hasher.digest() !== digest) throw new RegistryError("DIGEST_INVALID", `the bytes that came for ${digest} are others`);
}
