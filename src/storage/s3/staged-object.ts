import type { AppendOptions, Staged, StagedState } from "../../core/blob-store.js";
import { isRegistryError, RegistryError } from "../../core/errors.js";
import { abortable } from "../abortable.js";
import type { Bucket } from "./bucket.js";
import { locationOf, newName, type StagedEntry } from "./keys.js";
import type { Multipart } from "./multipart.js";
import { type PartBuffer, unreserved } from "./part-buffer.js";
import type { PartMemory } from "./part-memory.js";
import { PartUploads } from "./part-uploads.js";
import type { StagedFolder } from "./staged-folder.js";
import { encodeState, mostPieces, newUpload, sealed, sizeOf, tailSize, type UploadState } from "./upload-state.js";

/** An upload to an object store: parts of a multipart upload, and an object with the bytes too few for a part, so that what was answered for outlives this process. */
export class StagedObject implements Staged {
  readonly #bucket: Bucket;
  readonly #memory: PartMemory;
  readonly #folder: StagedFolder;
  #state: UploadState;
  #multipart: { multipart: Multipart; random: string } | undefined;
  /** Objects of this upload that its present state does not speak of. */
  #stale: StagedEntry[];
  /** Mostly an append is followed by the commit at once: then the tail need not be read again. The memory is the collector's to take, since uploads may be open in thousands. */
  readonly #tailBytes = new Map<string, WeakRef<Uint8Array>>();
  #smallName: string | undefined;
  /** The location, after the commit. */
  #committed: string | undefined;

  constructor(bucket: Bucket, memory: PartMemory, folder: StagedFolder, known?: { state: UploadState; stale: readonly StagedEntry[] }) {
    this.#bucket = bucket;
    this.#memory = memory;
    this.#folder = folder;
    this.#state = known?.state ?? newUpload;
    this.#stale = [...(known?.stale ?? [])];
    const { upload } = this.#state;
    this.#multipart = upload && { multipart: folder.multipart(upload), random: upload.random };
  }

  get size(): number {
    return sizeOf(this.#state);
  }

  get state(): StagedState {
    return encodeState(this.#state);
  }

  async append(source: AsyncIterable<Uint8Array>, o: AppendOptions = {}): Promise<void> {
    // What was left before this append: by now a state was stored that does not need it, or it would not have come to another append.
    const garbage = this.#stale.filter(({ kind }) => kind === "tail");
    const cleared = this.#folder.remove(garbage).then(
      () => {
        this.#stale = this.#stale.filter((entry) => !garbage.includes(entry));
      },
      // Told of again at the next occasion.
      () => {},
    );
    const written = <T>(write: () => Promise<T>) => retried(write, o.makeRoom);
    const uploads = new PartUploads({
      count: this.#state.parts.count,
      multipart: () => this.#begun(),
      written,
      stored: (part) => {
        this.#leaveTail();
        this.#state = { upload: this.#upload, parts: sealed(this.#state.parts, part), tail: [] };
        o.progress?.(this.size);
      },
    });
    let waiting: PartBuffer | undefined;
    // Others needed the memory while the client was waited for.
    let spilled: Promise<void> | undefined;
    const spill = async (part: PartBuffer) => {
      waiting = undefined;
      try {
        await uploads.settle();
        await this.#putTail(part, written);
        o.progress?.(this.size);
      } finally {
        part.reservation?.release();
      }
    };
    const reserve = async (part: PartBuffer, size: number) => {
      if (size > unreserved) part.reservation ??= await this.#memory.take(part.limit, o.signal);
    };
    const begin = async (more: number) => {
      // What is stored of the part is read when the part is full: written again with every request, it would be sent many times.
      const part = uploads.buffer(tailSize(this.#state));
      await reserve(part, more + part.hole);
      if (this.#state.tail.length >= mostPieces) await this.#plug(part);
      return part;
    };
    const keep = async () => {
      if (waiting?.reservation) waiting.reservation.spill = undefined;
      await uploads.settle();
      await spilled;
      if (!waiting) return;
      await this.#putTail(waiting, written);
      o.progress?.(this.size);
    };
    try {
      for await (const chunk of abortable(source, o.signal)) {
        if (waiting?.reservation) waiting.reservation.spill = undefined;
        await spilled;
        for (let rest = chunk; rest.byteLength > 0; ) {
          if (waiting) await reserve(waiting, waiting.size + rest.byteLength);
          else waiting = await begin(rest.byteLength);
          rest = waiting.fill(rest);
          if (!waiting.full) continue;
          await this.#plug(waiting);
          await uploads.send(waiting);
          waiting = uploads.buffer();
        }
        const held = waiting;
        if (held?.reservation)
          held.reservation.spill = () => {
            spilled = spill(held);
            // Its failure is told when the client goes on.
            spilled.catch(() => {});
          };
      }
    } catch (error) {
      // What came before the failure is kept, and the failure that came first is the one to tell.
      await keep().catch(() => {});
      waiting?.reservation?.release();
      throw error;
    }
    await keep().finally(() => waiting?.reservation?.release());
    await cleared;
  }

  async commit(): Promise<string> {
    if (this.#committed !== undefined) return this.#committed;
    const tail = await this.#readTail();
    const completed = this.#state.parts.count > 0 ? this.#multipart : undefined;
    // The same name for each try, so that one whose answer was lost is found to have succeeded.
    this.#smallName ??= newName();
    const location = locationOf(this.#folder.id, completed?.random ?? this.#smallName);
    if (completed) await this.#complete(completed.multipart, tail);
    else await this.#bucket.putNew(location, tail);
    this.#committed = location;
    this.#leaveTail();
    if (this.#multipart) this.#stale.push({ kind: "parts", random: this.#multipart.random });
    // A failure here takes nothing from the blob; what is left of the upload is listed as staged.
    await this.#folder.remove([...this.#stale, { kind: "begun" }], completed?.random).catch(() => {});
    return location;
  }

  async abort(): Promise<void> {
    if (this.#committed === undefined) await this.#folder.discard();
  }

  async #complete(multipart: Multipart, tail: Uint8Array): Promise<void> {
    const { parts } = this.#state;
    const all = tail.byteLength === 0 ? parts : sealed(parts, { etag: await multipart.put(parts.count + 1, tail), size: tail.byteLength });
    await multipart.complete(all);
  }

  async #begun(): Promise<Multipart> {
    await this.#folder.touch();
    this.#multipart ??= await this.#folder.beginParts();
    return this.#multipart.multipart;
  }

  get #upload(): UploadState["upload"] {
    return this.#multipart && { id: this.#multipart.multipart.id, random: this.#multipart.random };
  }

  /** Puts what is stored of a part into its buffer. */
  async #plug(part: PartBuffer): Promise<void> {
    if (part.hole === 0) return;
    try {
      part.plug(await this.#readTail());
    } catch (error) {
      part.reservation?.release();
      throw error;
    }
  }

  async #readTail(): Promise<Uint8Array> {
    const { tail } = this.#state;
    return Buffer.concat(await Promise.all(tail.map(({ random }) => this.#tailBytes.get(random)?.deref() ?? this.#readPiece(random))));
  }

  async #readPiece(random: string): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    try {
      for await (const chunk of this.#folder.tail(random)) chunks.push(chunk);
    } catch (error) {
      if (isRegistryError(error) && error.code === "BLOB_UNKNOWN") throw gone(this.#folder.id, error);
      throw error;
    }
    return Buffer.concat(chunks);
  }

  /** Stores what a part has so far, behind what is stored of it already, or in its place where it was read. */
  async #putTail({ bytes, hole }: PartBuffer, written: <T>(write: () => Promise<T>) => Promise<T>): Promise<void> {
    const before = hole > 0 ? this.#state.tail : [];
    const piece = bytes.byteLength === 0 ? [] : [{ random: await written(() => this.#folder.putTail(bytes)), size: bytes.byteLength }];
    if (hole === 0) this.#leaveTail();
    this.#state = { ...this.#state, tail: [...before, ...piece] };
    for (const { random } of piece) this.#tailBytes.set(random, new WeakRef(bytes));
  }

  /** The object stays until a state that does not speak of it is stored: who continues after a crash may still need it. */
  #leaveTail(): void {
    this.#stale.push(...this.#state.tail.map(({ random }) => ({ kind: "tail", random }) as const));
    this.#tailBytes.clear();
  }
}

/** The error for an upload that was discarded or committed. */
export function gone(id: string, cause?: unknown): RegistryError {
  return new RegistryError("BLOB_UPLOAD_UNKNOWN", `no upload ${id} is staged`, { cause });
}

async function retried<T>(write: () => Promise<T>, makeRoom: (() => Promise<boolean>) | undefined): Promise<T> {
  try {
    return await write();
  } catch (error) {
    if (!makeRoom || !isRegistryError(error) || error.code !== "INSUFFICIENT_STORAGE" || !(await makeRoom())) throw error;
    return retried(write, makeRoom);
  }
}
