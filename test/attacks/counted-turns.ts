import type { Storage } from "oci-manifold";
import type { MetadataStore } from "oci-manifold/extend";

/** What was asked of the metadata, in all and at most in one turn of the event loop. */
export interface Counted {
  readonly reads: number;
  readonly readsInTurn: number;
  /** Of records' values and bytes. */
  readonly bytes: number;
  readonly bytesInTurn: number;
  readonly commits: number;
}

/** Counts what a composition asks of its metadata. */
export class TurnCounter {
  #total = { reads: 0, bytes: 0, commits: 0 };
  #most = { reads: 0, bytes: 0 };
  #turn = { reads: 0, bytes: 0 };
  #counting = false;

  /** For the option `storage` of the stack. */
  readonly around = (storage: Storage): Storage => {
    const { metadata } = storage;
    const counted: MetadataStore = {
      ...metadata,
      get: async (key) => {
        const record = await metadata.get(key);
        this.#count(record ? [record] : []);
        return record;
      },
      page: async (range) => {
        const records = await metadata.page(range);
        this.#count(records);
        return records;
      },
      names: async (range) => {
        const names = await metadata.names(range);
        this.#count(names.map((value) => ({ value })));
        return names;
      },
      commit: (conditions, changes) => {
        this.#total.commits++;
        return metadata.commit(conditions, changes);
      },
    };
    return { ...storage, metadata: counted };
  };

  /** What the work costs. */
  async of<T>(work: () => Promise<T>): Promise<Counted & { readonly answer: T }> {
    this.#total = { reads: 0, bytes: 0, commits: 0 };
    this.#most = { reads: 0, bytes: 0 };
    const answer = await work();
    this.#endOfTurn();
    return { answer, ...this.#total, readsInTurn: this.#most.reads, bytesInTurn: this.#most.bytes };
  }

  #count(records: readonly { readonly value: unknown; readonly bytes?: Uint8Array }[]): void {
    const bytes = records.reduce((sum, { value, bytes: more }) => sum + JSON.stringify(value).length + (more?.byteLength ?? 0), 0);
    const reads = Math.max(1, records.length);
    for (const sum of [this.#total, this.#turn]) {
      sum.reads += reads;
      sum.bytes += bytes;
    }
    if (this.#counting) return;
    this.#counting = true;
    setImmediate(() => {
      this.#counting = false;
      this.#endOfTurn();
    });
  }

  #endOfTurn(): void {
    this.#most = { reads: Math.max(this.#most.reads, this.#turn.reads), bytes: Math.max(this.#most.bytes, this.#turn.bytes) };
    this.#turn = { reads: 0, bytes: 0 };
  }
}
