import { RegistryError } from "../core/errors.js";
import type { Condition, MetadataStore, RecordItem, RecordRange, StoredRecord } from "../core/metadata-store.js";
import type { RecordKey, RecordKind, RecordTypes } from "../core/records.js";

interface Row {
  readonly kind: RecordKind;
  readonly parts: readonly string[];
  /** As text, as a database column would hold it: what is no JSON does not come back. */
  readonly value: string;
  readonly bytes: Uint8Array | undefined;
  readonly version: number;
}

/**
 * A metadata store in memory with an SQL database's manners: every operation takes turns of the event loop, commits run one after another as
 * transactions, values travel as text, pages go by key only. For tests of code that must not count on anything faster.
 *
 * @example
 * ```ts
 * import { transactionMetadataStore } from "oci-manifold/testing";
 * const metadata = transactionMetadataStore();
 * console.log(await metadata.commit([], []));
 * ```
 */
export function transactionMetadataStore(): MetadataStore {
  // Sorted by kind and parts. Replaced by each transaction, never changed: a reader sees one state or the other.
  let rows: readonly Row[] = [];
  let version = 0;
  let last: Promise<unknown> = Promise.resolve();

  const find = (all: readonly Row[], key: RecordKey) => {
    const at = position(all, key);
    const row = all[at];
    return row && compare(row, key) === 0 ? row : undefined;
  };

  const holds = (condition: Condition): boolean => {
    const row = find(rows, condition.key);
    if (condition.is === "absent") return row === undefined;
    return row !== undefined && (condition.is === "present" || row.version === condition.version);
  };

  const store: MetadataStore = {
    async get<K extends RecordKind>(key: RecordKey<K>) {
      await turn();
      const row = find(rows, key);
      if (!row) return undefined;
      const value = JSON.parse(row.value) as RecordTypes[K];
      const record: StoredRecord<K> = { value, version: row.version, ...(row.bytes && { bytes: new Uint8Array(row.bytes) }) };
      return record;
    },

    async page<K extends RecordKind>({ kind, under, after, limit }: RecordRange<K>) {
      await turn();
      const items: RecordItem<K>[] = [];
      const depth = under.length;
      for (let at = position(rows, { kind, parts: under }); at < rows.length && items.length < limit; at++) {
        const row = rows[at] as Row;
        const next = row.parts[depth];
        if (row.kind !== kind || !under.every((part, index) => row.parts[index] === part)) break;
        if (next === undefined || (after !== undefined && next <= after)) continue;
        items.push({ key: { kind, parts: row.parts }, value: JSON.parse(row.value) as RecordTypes[K], version: row.version });
      }
      return items;
    },

    async names(range) {
      return (await store.page(range)).map(({ key }) => key.parts[range.under.length] ?? "");
    },

    async commit(conditions, changes) {
      for (const change of changes) checkKey("put" in change ? change.put : change.remove);
      const transaction = last.then(async () => {
        await turn();
        if (!conditions.every(holds)) return false;
        const copy = [...rows];
        for (const change of changes) {
          const key = "put" in change ? change.put : change.remove;
          const at = position(copy, key);
          const found = copy[at];
          const exists = found !== undefined && compare(found, key) === 0 ? 1 : 0;
          if ("remove" in change) {
            copy.splice(at, exists);
            continue;
          }
          version += 1;
          const { kind, parts } = change.put;
          const bytes = change.bytes && new Uint8Array(change.bytes);
          copy.splice(at, exists, { kind, parts: [...parts], value: JSON.stringify(change.value), bytes, version });
        }
        await turn();
        rows = copy;
        return true;
      });
      last = transaction.catch(() => {});
      return transaction;
    },

    async ready() {},
    async close() {
      await last;
    },
  };
  return store;
}

function checkKey({ parts }: RecordKey): void {
  if (parts.length === 0 || parts.some((part) => !/^[\x20-\x7e]*$/.test(part))) {
    throw new RegistryError("UNKNOWN", `${JSON.stringify(parts)} is no key: its parts are printable ASCII, and there is at least one`);
  }
}

function compare(a: RecordKey, b: RecordKey): number {
  if (a.kind !== b.kind) return a.kind < b.kind ? -1 : 1;
  for (let index = 0; index < Math.min(a.parts.length, b.parts.length); index++) {
    const [left = "", right = ""] = [a.parts[index], b.parts[index]];
    if (left !== right) return left < right ? -1 : 1;
  }
  return a.parts.length - b.parts.length;
}

/** Where the key is, or would be. */
function position(rows: readonly Row[], key: RecordKey): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compare(rows[middle] as Row, key) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
