import type { Change, Condition, MetadataStore, RecordItem, RecordRange, StoredRecord } from "../../core/metadata-store.js";
import type { RecordKey, RecordKind, RecordTypes } from "../../core/records.js";
import { chargeTurn, inTurn, spendTurn } from "../../core/turn-budget.js";
import { keyBounds, keyText } from "../key-order.js";
import { inSlices, readUnits, unitsToCopy } from "../read-cost.js";
import { SortedKeys } from "./sorted-keys.js";

interface Entry {
  readonly key: RecordKey;
  readonly value: RecordTypes[RecordKind];
  readonly bytes: Uint8Array | undefined;
  readonly version: number;
}

interface Kind {
  readonly entries: Map<string, Entry>;
  readonly keys: SortedKeys;
}

/**
 * Records in memory, gone with the process. Good for tests and for caches that may start empty; a million records are no trouble. Values are
 * frozen on write, so that a change to what was read fails instead of reaching others. `close` keeps the records.
 *
 * @example
 * ```ts
 * import { memoryMetadataStore } from "oci-manifold/storage/memory";
 * const metadata = memoryMetadataStore();
 * const key = { kind: "repository", parts: ["release", "team/app"] } as const;
 * await metadata.commit([{ key, is: "absent" }], [{ put: key, value: { updatedAt: Date.now() } }]);
 * ```
 */
export function memoryMetadataStore(): MetadataStore {
  const kinds = new Map<RecordKind, Kind>();
  let version = 0;

  const ofKind = (kind: RecordKind): Kind => {
    let found = kinds.get(kind);
    if (!found) {
      found = { entries: new Map(), keys: new SortedKeys() };
      kinds.set(kind, found);
    }
    return found;
  };

  const holds = ({ condition, text }: Check): boolean => {
    const entry = ofKind(condition.key.kind).entries.get(text);
    if (condition.is === "absent") return entry === undefined;
    return entry !== undefined && (condition.is === "present" || entry.version === condition.version);
  };

  return {
    async get<K extends RecordKind>(key: RecordKey<K>) {
      const text = keyText(key);
      return inTurn(readUnits.known, () => {
        const entry = ofKind(key.kind).entries.get(text);
        if (entry?.bytes) chargeTurn(unitsToCopy(entry.bytes.byteLength));
        return entry && (stored(entry) as StoredRecord<K>);
      });
    },

    async page<K extends RecordKind>(range: RecordRange<K>) {
      const { from, to } = keyBounds(range);
      const { keys, entries } = ofKind(range.kind);
      return inSlices(range, from, readUnits.name, async (start, limit, units) => {
        const turn = spendTurn(units);
        if (turn) await turn;
        const texts = keys.slice(start, to, limit);
        const items = texts.map((text) => {
          const { key, value, version } = entries.get(text) as Entry;
          return { key, value, version } as RecordItem<K>;
        });
        return { items, last: texts.at(-1) };
      });
    },

    async names(range) {
      const { from, to, nameAt } = keyBounds(range);
      const { keys } = ofKind(range.kind);
      return inSlices(range, from, readUnits.name, async (start, limit, units) => {
        const turn = spendTurn(units);
        if (turn) await turn;
        const texts = keys.slice(start, to, limit);
        return { items: texts.map((text) => text.slice(nameAt)), last: texts.at(-1) };
      });
    },

    async commit(conditions, changes) {
      const asked = spendTurn(readUnits.known);
      if (asked) await asked;
      const checks: Check[] = [];
      for (const condition of conditions) {
        const turn = spendTurn(readUnits.known);
        if (turn) await turn;
        checks.push({ condition, text: keyText(condition.key) });
      }
      const writes: Write[] = [];
      for (const change of changes) {
        const turn = spendTurn(readUnits.row);
        if (turn) await turn;
        writes.push(prepared(change));
      }
      // Without an await between the first condition and the last change, nothing can come between them.
      if (!checks.every(holds)) return false;
      version += 1;
      for (const { kind, text, entry } of writes) {
        const { entries, keys } = ofKind(kind);
        if (entry) {
          if (!entries.has(text)) keys.add(text);
          entries.set(text, { ...entry, version });
        } else if (entries.delete(text)) {
          keys.delete(text);
        }
      }
      return true;
    },

    async ready() {},
    async close() {},
  };
}

interface Check {
  readonly condition: Condition;
  readonly text: string;
}

interface Write {
  readonly kind: RecordKind;
  readonly text: string;
  /** Absent: a removal. */
  readonly entry: Omit<Entry, "version"> | undefined;
}

/** Everything that can fail about a change happens here, before anything is changed. */
function prepared(change: Change): Write {
  if ("remove" in change) return { kind: change.remove.kind, text: keyText(change.remove), entry: undefined };
  const text = keyText(change.put);
  const key = deepFrozen({ kind: change.put.kind, parts: [...change.put.parts] });
  const value = deepFrozen(JSON.parse(JSON.stringify(change.value)) as RecordTypes[RecordKind]);
  return { kind: key.kind, text, entry: { key, value, bytes: change.bytes && copied(change.bytes) } };
}

function stored(entry: Entry): StoredRecord<RecordKind> {
  const { value, version, bytes } = entry;
  return bytes ? { value, version, bytes: copied(bytes) } : { value, version };
}

// Not slice(): a Buffer's slice shares its memory.
function copied(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes);
}

function deepFrozen<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    for (const inner of Object.values(value)) deepFrozen(inner);
    Object.freeze(value);
  }
  return value;
}
