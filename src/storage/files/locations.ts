import { randomBytes } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { RegistryError } from "../../core/errors.js";
import type { Page, PageRequest } from "../../core/page.js";
import { pageOf } from "../page-slice.js";
import { isMissing } from "./disk-errors.js";

// A location is the path below the store's folder. The pattern allows nothing that could lead out of it.
const locationPattern = /^blobs\/sha(?:256|512)\/[a-f0-9]{2}\/[a-f0-9]{64,128}\.[a-f0-9]{16}$/;

/** A location that was never used: a late delete of an older copy of the blob cannot hit it. */
export function newLocation(algorithm: string, hex: string): string {
  return `blobs/${algorithm}/${hex.slice(0, 2)}/${hex}.${randomBytes(8).toString("hex")}`;
}

/** @throws RegistryError BLOB_UNKNOWN for a text that is no location of a file store. */
export function locationPath(dir: string, location: string): string {
  if (locationPattern.test(location)) return join(dir, location);
  throw new RegistryError("BLOB_UNKNOWN", `${JSON.stringify(location.slice(0, 200))} is no location in a file store`);
}

interface StoredFile {
  readonly location: string;
  readonly size: number;
  readonly modifiedAt: number;
}

/**
 * A page of committed blobs in ASCII order, one folder in memory at a time.
 * @param o.stamped files carry the time of a clock that is not the system's. Else a blob is as young as its latest name: one that is another program's file too
 *   may be old, and must not look like garbage that lies here since then.
 */
export async function listLocations(dir: string, { after = "", limit }: PageRequest, o: { stamped: boolean }): Promise<Page<StoredFile>> {
  const files: StoredFile[] = [];
  for await (const shard of shardsAfter(dir, after)) {
    const names = await sortedNames(join(dir, shard));
    const locations = names.map((name) => `${shard}/${name}`).filter((location) => location > after && locationPattern.test(location));
    // A file may go between the listing and its stat: more are tried until the page is full.
    for (let at = 0; at < locations.length && files.length <= limit; ) {
      const wanted = locations.slice(at, at + limit + 1 - files.length);
      at += wanted.length;
      for (const file of await Promise.all(wanted.map((location) => described(dir, location, o.stamped)))) if (file) files.push(file);
    }
    if (files.length > limit) break;
  }
  return pageOf(files, limit, (file) => file.location);
}

/** Folders that can hold a location greater than `after`, in order. */
async function* shardsAfter(dir: string, after: string): AsyncGenerator<string> {
  for (const algorithm of await sortedNames(join(dir, "blobs"))) {
    for (const digits of await sortedNames(join(dir, "blobs", algorithm))) {
      const shard = `blobs/${algorithm}/${digits}`;
      // "0" is the character after "/": nothing in the folder sorts as high.
      if (`${shard}0` > after) yield shard;
    }
  }
}

export async function sortedNames(path: string): Promise<string[]> {
  try {
    return (await readdir(path)).sort();
  } catch (error) {
    // Not created yet, or a file that someone else put there.
    if (isMissing(error) || (error as NodeJS.ErrnoException).code === "ENOTDIR") return [];
    throw error;
  }
}

async function described(dir: string, location: string, stamped: boolean): Promise<StoredFile | undefined> {
  const file = await modified(join(dir, location));
  return file && { location, size: file.size, modifiedAt: stamped ? file.modifiedAt : Math.max(file.modifiedAt, file.changedAt) };
}

/** A file's size and times, of its bytes and of its names; `undefined` once it is gone. */
export async function modified(path: string): Promise<{ size: number; modifiedAt: number; changedAt: number } | undefined> {
  try {
    const { size, mtimeMs, ctimeMs } = await stat(path);
    return { size, modifiedAt: mtimeMs, changedAt: ctimeMs };
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}
