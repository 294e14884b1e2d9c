import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, opendirSync, openSync, readdirSync, readFileSync, statSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import type { RegistryError } from "../../core/errors.js";
import { recordKey } from "../../core/records.js";
import { systemCode } from "../../core/system-code.js";
import { rowOf } from "../sql/rows.js";
import { storageError } from "../storage-error.js";
import type { SqliteDatabase } from "./sqlite-driver.js";

/**
 * Blobs and their records belong together: a database without records beside blobs is that of a folder whose database was lost, and would serve an empty registry. So folder
 * and database have one random identity: the folder in its file `identity`, the database in a table of its own, made when the first of them is created.
 */
const fileName = "identity";
const pattern = /^[a-f0-9]{32}$/;

/** For so long after an empty database was accepted no bytes are deleted for want of a record: their manifests may be pushed or restored again. Milliseconds. */
const sparedFor = 30 * 24 * 3_600_000;

/**
 * Compares the database with its folder. Nothing is written where both have their identity: a folder on a full disk can still be read.
 *
 * @param path of the database.
 * @returns whether `giveIdentity` is to be called.
 * @throws RegistryError UNAVAILABLE where the database is another folder's.
 */
export function lacksIdentity(path: string, database: SqliteDatabase): boolean {
  const dir = dirname(path);
  const known = readIdentity(dir);
  const stored = storedIdentity(database);
  if (stored !== undefined && known !== undefined && stored !== known) {
    throw storageError(
      "UNAVAILABLE",
      path,
      `${path} is the database of another folder: put back the one that belongs to ${dir}, or remove ${join(dir, fileName)} if the two are to be used together`,
    );
  }
  return stored === undefined || known === undefined;
}

/**
 * Gives folder and database their identity, in a transaction that may write.
 *
 * @param o.acceptEmpty a database without records is taken beside blobs.
 * @throws RegistryError UNAVAILABLE for such a database.
 */
export function giveIdentity(path: string, database: SqliteDatabase, o: { acceptEmpty: boolean }): void {
  const dir = dirname(path);
  const known = readIdentity(dir);
  const stored = storedIdentity(database);
  if (stored !== undefined) {
    if (known === undefined) writeIdentity(dir, stored);
    return;
  }
  const isEmpty = database.prepare("SELECT 1 FROM records LIMIT 1").get() === undefined;
  if (isEmpty && hasBlobs(dir)) {
    if (!o.acceptEmpty) throw emptyBeside(path, dir);
    spareBlobs(database);
  }
  const identity = known ?? randomBytes(16).toString("hex");
  database.exec("CREATE TABLE IF NOT EXISTS folder (identity TEXT PRIMARY KEY)");
  database.prepare("INSERT INTO folder (identity) VALUES (?)").run(identity);
  if (known === undefined) writeIdentity(dir, identity);
}

function storedIdentity(database: SqliteDatabase): string | undefined {
  if (!database.prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'folder'").get()) return undefined;
  return (database.prepare("SELECT identity FROM folder").get() as { identity: string } | undefined)?.identity;
}

function emptyBeside(path: string, dir: string): RegistryError {
  return storageError(
    "UNAVAILABLE",
    path,
    `${path} has no records, but there are blobs in ${join(dir, "blobs")}: restore the database from a copy, or start with acceptEmptyDatabase: true, which keeps the blobs and begins with an empty registry`,
  );
}

/** Tells garbage collection, by a record that it looks for. */
function spareBlobs(database: SqliteDatabase): void {
  const value = { holder: "empty database", expiresAt: Date.now() + sparedFor };
  const row = rowOf({ put: recordKey.lease("spared", "locations"), value });
  const { last } = database.prepare("UPDATE sequence SET last = last + 1 WHERE id = 1 RETURNING last").get() as { last: number };
  database.prepare("INSERT INTO records (kind, key, value, version) VALUES (?, ?, ?, ?)").run(row.kind, row.key, row.value ?? "", last);
}

function readIdentity(dir: string): string | undefined {
  try {
    const text = readFileSync(join(dir, fileName), "utf8").trim();
    return pattern.test(text) ? text : undefined;
  } catch (error) {
    if (systemCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** Written whole or not at all: what is half there is taken for none, and written again. */
function writeIdentity(dir: string, identity: string): void {
  const file = openSync(join(dir, fileName), "w");
  try {
    writeSync(file, `${identity}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** Whether some blob was ever committed there. */
function hasBlobs(dir: string): boolean {
  for (const algorithm of entriesOf(join(dir, "blobs"))) {
    for (const shard of entriesOf(join(dir, "blobs", algorithm))) if (isNonEmpty(join(dir, "blobs", algorithm, shard))) return true;
  }
  return false;
}

function entriesOf(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (error) {
    if (systemCode(error) === "ENOENT" || systemCode(error) === "ENOTDIR") return [];
    throw error;
  }
}

/** A folder may have millions of files: one is enough. */
function isNonEmpty(path: string): boolean {
  const folder = opendirSync(path);
  try {
    return folder.readSync() !== null;
  } finally {
    folder.closeSync();
  }
}

/** What a path led to at one time, by the file system's own number for it. */
export interface Place {
  readonly path: string;
  readonly number: string;
}

export function placeOf(path: string): Place {
  return { path, number: numberOf(path) ?? "" };
}

/** A folder that is held: as long as it is, the file system gives its number to no other, also when it is deleted. */
export interface HeldPlace extends Place {
  release(): void;
}

export function heldPlace(path: string): HeldPlace {
  // Windows opens no folders, and deletes none that is in use.
  const descriptor = process.platform === "win32" ? undefined : openSync(path, "r");
  return { ...placeOf(path), release: () => void (descriptor !== undefined && closeSync(descriptor)) };
}

/** Why what a path led to is not there any more: deleted, or replaced by another. `undefined` while it is. */
export function whyLeft({ path, number }: Place): RegistryError | undefined {
  const now = numberOf(path);
  if (now === number) return undefined;
  return leftPlace(path, now === undefined ? "was deleted" : "was replaced");
}

/** @param what "was deleted" or "was replaced". */
export function leftPlace(path: string, what: string): RegistryError {
  return storageError("UNAVAILABLE", path, `${path} ${what} while it was in use: put back what was there, then start again`);
}

function numberOf(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${dev} ${ino}`;
  } catch (error) {
    if (systemCode(error) === "ENOENT" || systemCode(error) === "ENOTDIR") return undefined;
    throw error;
  }
}
