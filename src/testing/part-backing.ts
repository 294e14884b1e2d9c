import { randomBytes } from "node:crypto";
import { type Clock, systemClock } from "../core/clock.js";

/** S3's smallest part; only the last of an upload may be smaller. */
export const partMinimum = 5 * 2 ** 20;

interface StoredObject {
  readonly bytes: Uint8Array;
  readonly modifiedAt: number;
}

interface PartUpload {
  readonly key: string;
  readonly parts: Map<number, Uint8Array>;
}

/** An object store as S3 has it, in memory: whole objects, and uploads of numbered parts. Nothing can be appended to or renamed. */
export class PartBacking {
  #objects = new Map<string, StoredObject>();
  #uploads = new Map<string, PartUpload>();
  #clock: Clock;

  /** @param o.clock says when an object was stored; the system's by default. */
  constructor({ clock = systemClock }: { clock?: Clock } = {}) {
    this.#clock = clock;
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    this.#objects.set(key, { bytes: new Uint8Array(bytes), modifiedAt: this.#clock.now() });
  }

  async get(key: string): Promise<Uint8Array | undefined> {
    return this.#objects.get(key)?.bytes;
  }

  async delete(key: string): Promise<void> {
    this.#objects.delete(key);
  }

  /** Objects whose key begins with `prefix`, in order. */
  async list(prefix: string): Promise<{ key: string; size: number; modifiedAt: number }[]> {
    const keys = [...this.#objects.keys()].filter((key) => key.startsWith(prefix)).sort();
    return keys.flatMap((key) => {
      const object = this.#objects.get(key);
      return object ? [{ key, size: object.bytes.byteLength, modifiedAt: object.modifiedAt }] : [];
    });
  }

  async createUpload(key: string): Promise<string> {
    const id = randomBytes(16).toString("hex");
    this.#uploads.set(id, { key, parts: new Map() });
    return id;
  }

  /** A number used twice: the later part counts. */
  async putPart(id: string, number: number, bytes: Uint8Array): Promise<void> {
    this.#upload(id).parts.set(number, new Uint8Array(bytes));
  }

  async complete(id: string, numbers: readonly number[]): Promise<void> {
    const { key, parts } = this.#upload(id);
    const chosen = numbers.map((number) => {
      const part = parts.get(number);
      if (!part) throw new Error(`InvalidPart: ${number}`);
      return part;
    });
    if (chosen.slice(0, -1).some((part) => part.byteLength < partMinimum))
      throw new Error("EntityTooSmall: a part that is not the last is too small");
    await this.put(key, Buffer.concat(chosen));
    this.#uploads.delete(id);
  }

  async abortUploads(prefix: string): Promise<void> {
    for (const [id, { key }] of this.#uploads) if (key.startsWith(prefix)) this.#uploads.delete(id);
  }

  /** Uploads that were neither completed nor aborted; a test can see what was left behind. */
  get openUploads(): number {
    return this.#uploads.size;
  }

  hasUpload(id: string): boolean {
    return this.#uploads.has(id);
  }

  #upload(id: string): PartUpload {
    const upload = this.#uploads.get(id);
    if (!upload) throw new Error(`NoSuchUpload: ${id}`);
    return upload;
  }
}
