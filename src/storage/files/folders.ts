import { constants } from "node:fs";
import { access, mkdir, open } from "node:fs/promises";
import { dirname, join } from "node:path";
import { RegistryError } from "../../core/errors.js";
import { systemCode } from "../../core/system-code.js";
import { unusable } from "./disk-errors.js";
import { type HeldPlace, heldPlace, whyLeft } from "./folder-identity.js";
import { Reserve } from "./reserve.js";

const idPattern = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$/;

/**
 * Makes a folder's entries durable: a new or renamed file survives a power loss only once its folder was synced too.
 * Windows cannot open a folder for this, and keeps its entries in a journal.
 */
export async function syncFolder(path: string): Promise<void> {
  if (process.platform === "win32") return;
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** The folders of one file store: `uploads/` for what is staged, `blobs/<algorithm>/<first two digits>/` for what is committed. */
export class Folders {
  readonly dir: string;
  readonly uploads: string;
  readonly blobs: string;
  readonly reserve: Reserve;
  /** Each folder is made durable once by each process: that it exists does not tell that whoever made it lived long enough to sync it. */
  #durable = new Map<string, Promise<void>>();

  /** What the folders were when they were prepared. */
  #places: readonly HeldPlace[] = [];

  readonly #first: (() => Promise<void>) | undefined;

  /** @param first what must be there before there can be blobs. */
  constructor(dir: string, first?: () => Promise<void>) {
    this.dir = dir;
    this.#first = first;
    this.uploads = join(dir, "uploads");
    this.blobs = join(dir, "blobs");
    this.reserve = new Reserve(dir);
  }

  /** @throws RegistryError UNAVAILABLE when a folder cannot be created or written to. */
  prepare(): Promise<void> {
    return this.#once(this.dir, async () => {
      await this.#first?.();
      try {
        const created = await mkdir(this.dir, { recursive: true });
        await Promise.all([makeFolder(this.uploads), makeFolder(this.blobs)]);
        await Promise.all([access(this.uploads, constants.W_OK), access(this.blobs, constants.W_OK)]);
        await syncFolder(this.dir);
        await syncAbove(this.dir, created);
        this.#places = [heldPlace(this.uploads), heldPlace(this.blobs)];
      } catch (error) {
        throw unusable(this.dir, error);
      }
    });
  }

  /** Why something in the folders is missing that should be there: one of them was deleted or replaced under this process. `undefined` where they are as they were. */
  whyLeft(): RegistryError | undefined {
    for (const place of this.#places) {
      const why = whyLeft(place);
      if (why) return why;
    }
    return undefined;
  }

  /** The folder for a blob with these digits, existing and durable. */
  async shard(algorithm: string, hex: string): Promise<string> {
    const parent = join(this.blobs, algorithm);
    const shard = join(parent, hex.slice(0, 2));
    await this.#once(parent, () => makeDurable(parent));
    await this.#once(shard, () => makeDurable(shard));
    return shard;
  }

  /** @throws RegistryError BLOB_UPLOAD_INVALID for an id that cannot be the name of a file. */
  upload(id: string): string {
    if (idPattern.test(id)) return join(this.uploads, id);
    throw new RegistryError("BLOB_UPLOAD_INVALID", `${JSON.stringify(id.slice(0, 160))} cannot be an upload's id`);
  }

  close(): void {
    for (const place of this.#places) place.release();
    this.#places = [];
  }

  #once(path: string, make: () => Promise<void>): Promise<void> {
    let made = this.#durable.get(path);
    if (!made) {
      made = make();
      this.#durable.set(path, made);
      // The next caller tries again: a full or unmounted disk need not stay so.
      made.catch(() => this.#durable.delete(path));
    }
    return made;
  }
}

/** Not with `recursive`, where Node says ENOENT on a disk that has no room for a folder. */
async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    if (systemCode(error) !== "EEXIST") throw error;
  }
}

async function makeDurable(path: string): Promise<void> {
  await makeFolder(path);
  await syncFolder(dirname(path));
}

/** Syncs what leads to `dir`, from its parent up to the parent of the first folder that was created. */
async function syncAbove(dir: string, created: string | undefined): Promise<void> {
  const top = dirname(created ?? dir);
  for (let path = dirname(dir); ; path = dirname(path)) {
    try {
      await syncFolder(path);
    } catch (error) {
      // A parent that this process may pass but not read is the host's, and was there before.
      if (systemCode(error) !== "EACCES" && systemCode(error) !== "EPERM") throw error;
    }
    if (path === top || path === dirname(path)) return;
  }
}
