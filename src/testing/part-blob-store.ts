import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import type { BlobStore, Staged, StagedState } from "../core/blob-store.js";
import { RegistryError } from "../core/errors.js";
import { PartBacking, partMinimum } from "./part-backing.js";

/** What an upload is between two requests: parts uploaded, and the object that holds the bytes too few for a part. */
interface PartState {
  key: string;
  upload: string | null;
  parts: number[];
  tail: string | null;
  size: number;
}

/**
 * A blob store in memory with S3's limits: no append, no rename, parts of at least 5 MiB but for the last, staged bytes cannot be read. Everything about
 * an upload is in its state and the backing, so that each request may come to a fresh instance.
 *
 * @param backing shared by instances that play the nodes of one service; a new one by default.
 * @throws RegistryError from its methods: BLOB_UPLOAD_UNKNOWN for an upload that is gone. Reading a location that is gone fails on the stream
 *   with BLOB_UNKNOWN.
 *
 * @example
 * ```ts
 * import { PartBacking, partBlobStore } from "oci-manifold/testing";
 * const backing = new PartBacking();
 * const staged = await partBlobStore(backing).stage("0123456789abcdef");
 * const reopened = await partBlobStore(backing).reopen("0123456789abcdef", staged.state);
 * console.log(reopened.size);
 * ```
 */
export function partBlobStore(backing: PartBacking = new PartBacking()): BlobStore {
  const marker = (id: string) => `staged/${id}/begun`;

  async function discard(id: string): Promise<void> {
    for (const { key } of await backing.list(`staged/${id}/`)) await backing.delete(key);
    await backing.abortUploads(`blobs/${id}.`);
  }

  return {
    capabilities: { readStaged: false, presign: false },

    async stage(id) {
      await backing.put(marker(id), new Uint8Array());
      // The key is fixed when the parts begin, long before the digest is known.
      const key = `blobs/${id}.${randomBytes(8).toString("hex")}`;
      return new StagedParts(id, backing, { key, upload: null, parts: [], tail: null, size: 0 });
    },

    async reopen(id, state) {
      const known = state as unknown as PartState;
      const gone = !(await backing.get(marker(id))) || (known.upload !== null && !backing.hasUpload(known.upload));
      if (gone) throw new RegistryError("BLOB_UPLOAD_UNKNOWN", `no upload ${id} is staged`);
      const tail = known.tail === null ? undefined : await backing.get(known.tail);
      const size = known.parts.reduce((sum, part) => sum + part, tail?.byteLength ?? 0);
      return new StagedParts(id, backing, { ...known, parts: [...known.parts], tail: tail ? known.tail : null, size });
    },

    read(location, o) {
      async function* bytes() {
        const object = await backing.get(location);
        if (!object) throw new RegistryError("BLOB_UNKNOWN", `no blob is stored at ${location}`);
        const end = (o?.range?.end ?? object.byteLength - 1) + 1;
        for (let at = o?.range?.start ?? 0; at < end; at += 65_536) yield object.slice(at, Math.min(end, at + 65_536));
      }
      return Readable.from(bytes(), { objectMode: false });
    },

    async delete(location) {
      if (location.startsWith("blobs/")) await backing.delete(location);
    },

    async list({ after = "", limit }) {
      const objects = (await backing.list("blobs/")).filter(({ key }) => key > after);
      const items = objects.slice(0, limit).map(({ key, size, modifiedAt }) => ({ location: key, size, modifiedAt }));
      const last = items.at(-1);
      return { items, ...(last && objects.length > limit && { next: last.location }) };
    },

    async listStaged({ after = "", limit }) {
      const markers = (await backing.list("staged/")).filter(({ key }) => key.endsWith("/begun"));
      const uploads = markers.map(({ key, modifiedAt }) => ({ id: key.split("/")[1] ?? "", modifiedAt })).filter(({ id }) => id > after);
      const items = uploads.sort((a, b) => (a.id < b.id ? -1 : 1)).slice(0, limit);
      const last = items.at(-1);
      return { items, ...(last && uploads.length > limit && { next: last.id }) };
    },

    discardStaged: discard,
    async ready() {},
    async close() {},
  };
}

class StagedParts implements Staged {
  #id: string;
  #backing: PartBacking;
  #state: PartState;
  #committed = false;

  constructor(id: string, backing: PartBacking, state: PartState) {
    this.#id = id;
    this.#backing = backing;
    this.#state = state;
  }

  get size(): number {
    return this.#state.size;
  }

  get state(): StagedState {
    return { ...this.#state, parts: [...this.#state.parts] };
  }

  async append(source: AsyncIterable<Uint8Array>, o: { progress?: (size: number) => void; signal?: AbortSignal } = {}): Promise<void> {
    await this.#begun();
    const waiting = new Gathered(this.#state.tail === null ? undefined : await this.#backing.get(this.#state.tail));
    try {
      for await (const chunk of source) {
        o.signal?.throwIfAborted();
        waiting.add(chunk);
        while (waiting.size >= partMinimum) await this.#putPart(waiting.take(partMinimum));
      }
    } finally {
      await this.#putTail(waiting.take(waiting.size));
      o.progress?.(this.#state.size);
    }
  }

  async commit(): Promise<string> {
    await this.#begun();
    const { key, upload, parts, tail } = this.#state;
    const last = tail === null ? undefined : await this.#backing.get(tail);
    if (upload === null) {
      await this.#backing.put(key, last ?? new Uint8Array());
    } else {
      const numbers = parts.map((_, index) => index + 1);
      if (last) {
        numbers.push(numbers.length + 1);
        await this.#backing.putPart(upload, numbers.length, last);
      }
      await this.#backing.complete(upload, numbers);
    }
    this.#committed = true;
    await this.#discard();
    return key;
  }

  async abort(): Promise<void> {
    if (!this.#committed) await this.#discard();
  }

  async #putPart(bytes: Uint8Array): Promise<void> {
    const upload = this.#state.upload ?? (await this.#backing.createUpload(this.#state.key));
    this.#state.upload = upload;
    await this.#backing.putPart(upload, this.#state.parts.length + 1, bytes);
    this.#state.parts.push(bytes.byteLength);
    await this.#putTail(new Uint8Array());
  }

  async #putTail(bytes: Uint8Array): Promise<void> {
    const before = this.#state.tail;
    this.#state.tail = bytes.byteLength === 0 ? null : `staged/${this.#id}/${randomBytes(8).toString("hex")}`;
    if (this.#state.tail !== null) await this.#backing.put(this.#state.tail, bytes);
    this.#state.size = this.#state.parts.reduce((sum, part) => sum + part, bytes.byteLength);
    if (before !== null) await this.#backing.delete(before);
  }

  async #begun(): Promise<void> {
    const begun = await this.#backing.get(`staged/${this.#id}/begun`);
    if (!begun) throw new RegistryError("BLOB_UPLOAD_UNKNOWN", `no upload ${this.#id} is staged`);
  }

  async #discard(): Promise<void> {
    for (const { key } of await this.#backing.list(`staged/${this.#id}/`)) await this.#backing.delete(key);
    await this.#backing.abortUploads(`blobs/${this.#id}.`);
  }
}

/** Bytes that wait until they are enough for a part. */
class Gathered {
  #chunks: Uint8Array[] = [];
  size = 0;

  constructor(first: Uint8Array | undefined) {
    if (first) this.add(first);
  }

  add(chunk: Uint8Array): void {
    this.#chunks.push(new Uint8Array(chunk));
    this.size += chunk.byteLength;
  }

  take(length: number): Uint8Array {
    const all = Buffer.concat(this.#chunks, this.size);
    this.#chunks = [all.subarray(length)];
    this.size -= length;
    return all.subarray(0, length);
  }
}
