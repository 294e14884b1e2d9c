import type { Bucket } from "./bucket.js";
import { blobFolder, locationOf, newName, parseStagedKey, type StagedEntry, stagedFolder, stagedKey } from "./keys.js";
import { abortUploads, Multipart } from "./multipart.js";

/** How often an upload that runs on and on shows that it is not forgotten: sweepers look at times. */
const touchInterval = 10 * 60_000;

/** The objects below `staged/<id>/`, which say all that is in the bucket of an upload under way; so it can be cleared away without its state. */
export class StagedFolder {
  readonly id: string;
  readonly #bucket: Bucket;
  #touched = 0;

  constructor(bucket: Bucket, id: string) {
    this.#bucket = bucket;
    this.id = id;
  }

  async begin(): Promise<void> {
    this.#touched = Date.now();
    await this.#bucket.put(stagedKey(this.id, { kind: "begun" }), new Uint8Array());
  }

  async touch(): Promise<void> {
    if (Date.now() - this.#touched > touchInterval) await this.begin();
  }

  async entries(): Promise<{ entry: StagedEntry; size: number }[]> {
    const found: { entry: StagedEntry; size: number }[] = [];
    for await (const { key, size, modifiedAt } of this.#bucket.list({ prefix: `${stagedFolder}${this.id}/` })) {
      const parsed = parseStagedKey(key);
      if (!parsed) continue;
      found.push({ entry: parsed.entry, size });
      // Another node has touched it: not every one has to do it anew.
      if (parsed.entry.kind === "begun") this.#touched = modifiedAt;
    }
    return found;
  }

  /** Begins a multipart upload. Its location is written down first: what a crash leaves of it can then be found, even where uploads cannot be listed by prefix. */
  async beginParts(): Promise<{ multipart: Multipart; random: string }> {
    const random = newName();
    await this.#bucket.put(stagedKey(this.id, { kind: "parts", random }), new Uint8Array());
    return { multipart: await Multipart.create(this.#bucket, locationOf(this.id, random)), random };
  }

  multipart(upload: { readonly id: string; readonly random: string }): Multipart {
    return new Multipart(this.#bucket, locationOf(this.id, upload.random), upload.id);
  }

  async putTail(bytes: Uint8Array): Promise<string> {
    const random = newName();
    await this.#bucket.put(stagedKey(this.id, { kind: "tail", random }), bytes);
    return random;
  }

  tail(random: string): AsyncIterable<Uint8Array> {
    return this.#bucket.read(stagedKey(this.id, { kind: "tail", random }));
  }

  /**
   * Removes these and what they stand for, `begun` last: as long as it is there, the rest is found.
   * @param completed the location whose multipart upload was completed: there is none to abort.
   */
  async remove(entries: readonly StagedEntry[], completed?: string): Promise<void> {
    const removeOne = async (entry: StagedEntry) => {
      // MinIO lists the uploads of one whole key only.
      if (entry.kind === "parts" && entry.random !== completed) await abortUploads(this.#bucket, locationOf(this.id, entry.random));
      await this.#bucket.delete(stagedKey(this.id, entry));
    };
    await Promise.all(entries.filter(({ kind }) => kind !== "begun").map(removeOne));
    await Promise.all(entries.filter(({ kind }) => kind === "begun").map(removeOne));
  }

  /** Removes all there is, also what was left by writers whose state was lost. */
  async discard(): Promise<void> {
    await abortUploads(this.#bucket, `${blobFolder}${this.id}.`);
    await this.remove((await this.entries()).map(({ entry }) => entry));
  }
}
