import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { RegistryError } from "../../core/errors.js";
import { type Page, type PageRequest, pageOf } from "../../core/page.js";
import { firstEntries, firstNames } from "./folder-pages.js";

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
 * A page of committed blobs in ASCII order, no more of them in memory than twice the page.
 * @param o.stamped files carry the time of a clock that is not the system's. Else a blob is as young as its latest name: one that is another program's file too
 *   may be old, and must not look like garbage that lies here since then.
 */
export async function listLocations(dir: string, { after = "", limit }: PageRequest, o: { stamped: boolean }): Promise<Page<StoredFile>> {
  const files: StoredFile[] = [];
  for await (const shard of shardsAfter(dir, after)) {
    const isLocation = (name: string) => locationPattern.test(`${shard}/${name}`);
    const from = after.startsWith(`${shard}/`) ? after.slice(shard.length + 1) : "";
    const entries = await firstEntries(join(dir, shard), { after: from, limit: limit + 1 - files.length }, isLocation);
    for (const { name, size, modifiedAt, changedAt } of entries) {
      files.push({ location: `${shard}/${name}`, size, modifiedAt: o.stamped ? modifiedAt : Math.max(modifiedAt, changedAt) });
    }
    if (files.length > limit) break;
  }
  return pageOf(files, limit, (file) => file.location);
}

const allShards = { limit: 256 };
const isAlgorithm = (name: string) => /^sha(?:256|512)$/.test(name);
const isShard = (name: string) => /^[a-f0-9]{2}$/.test(name);

/** Folders that can hold a location greater than `after`, in order. */
async function* shardsAfter(dir: string, after: string): AsyncGenerator<string> {
  for (const algorithm of await firstNames(join(dir, "blobs"), allShards, isAlgorithm)) {
    for (const digits of await firstNames(join(dir, "blobs", algorithm), allShards, isShard)) {
      const shard = `blobs/${algorithm}/${digits}`;
      // "0" is the character after "/": nothing in the folder sorts as high.
      if (`${shard}0` > after) yield shard;
    }
  }
}
