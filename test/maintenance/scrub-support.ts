import { rmSync } from "node:fs";
import { appendFile, mkdir, open, rm, truncate } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import type { DamageEvent, EventSink, Storage } from "oci-manifold";
import { type BlobStore, parseDigest } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { onTestFinished } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

export type Damage = "flip" | "truncate" | "append" | "delete";

export interface Damageable {
  readonly storage: Storage;
  damage(digest: string, how: Damage): Promise<void>;
  /** Where the record says that it is. */
  locationOf(digest: string): Promise<string>;
}

export async function locationIn(storage: Storage, digest: string): Promise<string> {
  const record = await storage.metadata.get(recordKey.blob(parseDigest(digest)));
  if (!record) throw new Error(`${digest} has no record`);
  return record.value.location;
}

export function damageableMemory(): Damageable {
  const storage = memoryStorage();
  const damaged = new Map<string, (bytes: Buffer) => Buffer>();
  const { read } = storage.blobs;
  storage.blobs.read = (location, o) => {
    const change = damaged.get(location);
    if (!change) return read.call(storage.blobs, location, o);
    const changed = async function* () {
      const bytes = change(Buffer.concat(await read.call(storage.blobs, location).toArray()));
      yield o?.range ? bytes.subarray(o.range.start, o.range.end + 1) : bytes;
    };
    return Readable.from(changed(), { objectMode: false });
  };
  const locationOf = (digest: string) => locationIn(storage, digest);
  return {
    storage,
    locationOf,
    async damage(digest, how) {
      const location = await locationOf(digest);
      if (how === "delete") return storage.blobs.delete(location);
      damaged.set(location, (bytes) => {
        if (how === "truncate") return bytes.subarray(0, -1);
        if (how === "append") return Buffer.concat([bytes, Buffer.from("x")]);
        const flipped = Buffer.from(bytes);
        flipped[0] = (flipped[0] ?? 0) ^ 1;
        return flipped;
      });
    },
  };
}

export function damageableFiles(): Damageable & { readonly folder: string; pathOf(digest: string): Promise<string> } {
  const folder = temporaryFolder();
  const storage = fileStorage(folder);
  onTestFinished(async () => {
    await storage.metadata.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const locationOf = (digest: string) => locationIn(storage, digest);
  const pathOf = async (digest: string) => join(folder, await locationOf(digest));
  return {
    folder,
    storage,
    locationOf,
    pathOf,
    async damage(digest, how) {
      const path = await pathOf(digest);
      if (how === "delete") return rm(path);
      if (how === "append") return appendFile(path, "x");
      const file = await open(path, "r+");
      const { size } = await file.stat();
      const byte = Buffer.alloc(1);
      await file.read(byte, 0, 1, 0);
      byte[0] = (byte[0] ?? 0) ^ 1;
      if (how === "flip") await file.write(byte, 0, 1, 0);
      await file.close();
      if (how === "truncate") await truncate(path, size - 1);
    },
  };
}

export async function replaceByFolder(path: string): Promise<void> {
  await rm(path);
  await mkdir(path);
}

export const storages = { memory: damageableMemory, files: damageableFiles } as const;

/** The reads of a location are answered by `answer`, or as before where it answers nothing. */
export function answering(blobs: BlobStore, answer: (location: string) => Readable | undefined): void {
  const { read } = blobs;
  blobs.read = (location, o) => answer(location) ?? read.call(blobs, location, o);
}

export function failingRead(code = "EIO"): Readable {
  const error = Object.assign(new Error(`${code}: i/o error, read`), { code, syscall: "read" });
  return new Readable({
    read() {
      this.destroy(error);
    },
  });
}

export function damages(): { events: EventSink; told: DamageEvent[] } {
  const told: DamageEvent[] = [];
  return { told, events: { emit: (type, event) => void (type === "damage" && told.push(event as DamageEvent)) } };
}

/** Bytes that are kept; of those that were missing only the location is. */
export async function quarantined(storage: Storage): Promise<{ digest: string; location: string; why: string; size: number }[]> {
  const items = await storage.metadata.page({ kind: "quarantine", under: [], limit: 1000 });
  return items
    .filter(({ value }) => !value.missing)
    .map(({ key: { parts }, value: { why, size } }) => ({ digest: parts[0] ?? "", location: parts[1] ?? "", why, size }));
}

export const isRecorded = async (storage: Storage, digest: string) =>
  (await storage.metadata.get(recordKey.blob(parseDigest(digest)))) !== undefined;
