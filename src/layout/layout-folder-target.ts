import { mkdir, readdir, realpath } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Clock } from "../core/clock.js";
import { chunksOf } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import { manifestSizeLimit } from "../core/manifest.js";
import { isWithin } from "./is-within.js";
import { layoutFolder } from "./layout-folder.js";
import { checkVersion, layoutVersion, mergedIndex } from "./layout-index.js";
import { blobFile, kindOf, type LayoutSource, smallFile } from "./layout-source.js";
import { isPartial, type LayoutTarget, placeFile, sweepPartial, syncLayoutFolder, unwritable, verified } from "./layout-target.js";

/** A layout in a folder, new or added to. What is there with the right size is not written again; `index.json` changes last, at once. */
export class LayoutFolderTarget implements LayoutTarget {
  readonly parallel = true;
  readonly #path: string;
  readonly #layout: LayoutSource;
  readonly #entries: readonly Descriptor[];
  /** The lowest folder that was there before. */
  readonly #above: string;
  readonly #folders = new Map<string, Promise<void>>();

  private constructor(path: string, above: string, layout: LayoutSource, entries: readonly Descriptor[]) {
    this.#above = above;
    this.#path = path;
    this.#layout = layout;
    this.#entries = entries;
  }

  /**
   * @param entries what goes into `index.json`.
   * @throws RegistryError UNSUPPORTED for a folder that holds something else.
   */
  static async open(path: string, entries: readonly Descriptor[], clock: Clock): Promise<LayoutFolderTarget> {
    if ((await kindOf(path)) === "file") throw new RegistryError("UNSUPPORTED", `${path} is a file, not a folder`);
    try {
      const created = await mkdir(path, { recursive: true });
      await sweepPartial(path, clock);
      const layout = await layoutFolder(path);
      if ((await layout.size("oci-layout")) !== undefined) await checkVersion(layout);
      else if ((await readdir(path)).every(isPartial)) {
        await placeFile(join(path, "oci-layout"), path, chunksOf(Buffer.from(JSON.stringify({ imageLayoutVersion: layoutVersion }))));
      } else throw new RegistryError("UNSUPPORTED", `${path} is no OCI layout and not empty: name a new folder`);
      // Before anything is copied: an index that is too large is refused.
      await mergedIndex(layout, entries);
      return new LayoutFolderTarget(path, dirname(resolve(created ?? path)), layout, entries);
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  async has({ digest, size }: Descriptor): Promise<boolean> {
    return (await this.#layout.size(blobFile(digest))) === size;
  }

  async add(content: Descriptor, source: AsyncIterable<Uint8Array>): Promise<void> {
    const file = join(this.#path, blobFile(content.digest));
    await this.#folder(dirname(file));
    await placeFile(file, this.#path, verified(content, source));
  }

  async finish(docker: (before: Uint8Array | undefined) => Uint8Array): Promise<void> {
    const path = this.#path;
    await this.#folder(join(path, "blobs"));
    for (const folder of this.#folders.keys()) await syncLayoutFolder(folder);
    const images = docker(await smallFile(this.#layout, "manifest.json", manifestSizeLimit));
    await placeFile(join(path, "manifest.json"), path, chunksOf(images));
    await placeFile(join(path, "index.json"), path, chunksOf(await mergedIndex(this.#layout, this.#entries)));
    await syncLayoutFolder(path);
    for (let folder = resolve(path); folder !== this.#above; folder = dirname(folder)) await syncLayoutFolder(dirname(folder));
  }

  async abandon(): Promise<void> {}

  #folder(path: string): Promise<void> {
    let made = this.#folders.get(path);
    if (!made) {
      made = this.#makeFolder(path);
      this.#folders.set(path, made);
    }
    return made;
  }

  async #makeFolder(path: string): Promise<void> {
    // Not through a link: the folder above is looked at before anything is made in it.
    if (dirname(path) !== this.#path) await this.#folder(dirname(path));
    try {
      await mkdir(path, { recursive: true });
    } catch (error) {
      throw unwritable(path, error);
    }
    if (isWithin(await realpath(this.#path), await realpath(path))) return;
    throw new RegistryError("UNSUPPORTED", `${path} is a link that leads out of the layout`);
  }
}
