import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import type { Clock } from "../core/clock.js";
import { chunksOf } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import { layoutVersion, newIndex } from "./layout-index.js";
import { blobFile, kindOf } from "./layout-source.js";
import { type LayoutTarget, placeFile, sweepPartial, syncLayoutFolder, unwritable, verified } from "./layout-target.js";
import type { Tar, TarPack } from "./tar-stream.js";

/** A layout in a new archive. The same content makes the same bytes. Until it is whole it lies beside, under another name. */
export class LayoutArchiveTarget implements LayoutTarget {
  readonly parallel = false;
  readonly #path: string;
  readonly #pack: TarPack;
  readonly #index: Uint8Array;
  readonly #written: Promise<void>;
  #complete = false;
  #failure: unknown;

  private constructor(path: string, pack: TarPack, index: Uint8Array) {
    this.#path = path;
    this.#pack = pack;
    this.#index = index;
    // Told by whoever writes or reads it; without a listener it would end the process.
    pack.on("error", (error) => {
      this.#failure ??= error;
    });
    this.#written = placeFile(path, dirname(path), this.#whole());
    // Told where it is awaited.
    this.#written.catch(() => {});
  }

  static async open(path: string, entries: readonly Descriptor[], tar: Tar, clock: Clock): Promise<LayoutArchiveTarget> {
    if ((await kindOf(path)) === "folder") throw new RegistryError("UNSUPPORTED", `${path} is a folder, not an archive`);
    const index = newIndex(entries);
    await sweepPartial(dirname(path), clock).catch((error: unknown) => Promise.reject(unwritable(path, error)));
    const target = new LayoutArchiveTarget(path, tar.pack(), index);
    const version = Buffer.from(JSON.stringify({ imageLayoutVersion: layoutVersion }));
    await target.#file("oci-layout", version.byteLength, chunksOf(version));
    return target;
  }

  async has(): Promise<boolean> {
    return false;
  }

  async add(content: Descriptor, source: AsyncIterable<Uint8Array>): Promise<void> {
    await this.#file(blobFile(content.digest), content.size, verified(content, source));
  }

  async finish(docker: (before: undefined) => Uint8Array): Promise<void> {
    const images = docker(undefined);
    await this.#file("manifest.json", images.byteLength, chunksOf(images));
    await this.#file("index.json", this.#index.byteLength, chunksOf(this.#index));
    this.#complete = true;
    this.#pack.finalize();
    await this.#written;
    await syncLayoutFolder(dirname(this.#path));
  }

  async abandon(cause: unknown): Promise<void> {
    this.#failure ??= cause;
    this.#pack.destroy();
    await this.#written.catch(() => {});
  }

  /** What is destroyed before it is read ends as if it were whole. */
  async *#whole(): AsyncGenerator<Uint8Array> {
    try {
      yield* this.#pack;
    } catch (error) {
      throw this.#failure ?? error;
    }
    if (!this.#complete) throw this.#failure ?? new Error(`${this.#path} was not written to its end`);
  }

  async #file(name: string, size: number, source: AsyncIterable<Uint8Array>): Promise<void> {
    try {
      await pipeline(source, this.#pack.entry({ name, size, type: "file", mtime: new Date(0) }));
    } catch (error) {
      // A disk that is full shows here only as an archive that takes no more.
      await this.#written;
      throw error;
    }
  }
}
