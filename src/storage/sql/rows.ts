import type { Change, RecordItem, RecordRange } from "../../core/metadata-store.js";
import type { RecordKind, RecordTypes } from "../../core/records.js";
import { keyParts, keyText } from "../key-order.js";

/** A change as the tables take it. */
export interface ChangedRow {
  readonly kind: RecordKind;
  readonly key: string;
  /** Absent: a removal. */
  readonly value: string | undefined;
  readonly bytes: Uint8Array | undefined;
}

/** @throws RegistryError UNKNOWN for a key that cannot be kept in order. */
export function rowOf(change: Change): ChangedRow {
  if ("remove" in change) return { kind: change.remove.kind, key: keyText(change.remove), value: undefined, bytes: undefined };
  return { kind: change.put.kind, key: keyText(change.put), value: JSON.stringify(change.value), bytes: change.bytes };
}

/** A row of `get`. Whole numbers of 64 bits come as text, number or bigint, as the driver's user wants them. */
export interface StoredRow {
  readonly value: string;
  readonly version: number | bigint | string;
  readonly bytes: Uint8Array | null;
}

export interface ReadRecord {
  readonly value: object;
  readonly version: number;
  readonly bytes?: Uint8Array;
}

/** Frozen, since it may be given to several readers. */
export function recordOf({ value, version, bytes }: StoredRow): ReadRecord {
  return Object.freeze({ value: Object.freeze(JSON.parse(value)), version: Number(version), ...(bytes && { bytes: plain(bytes) }) });
}

/** A row of `page`. */
export interface PageRow {
  readonly key: string;
  readonly value: string;
  readonly version: number | bigint | string;
}

export function itemOf<K extends RecordKind>({ kind }: RecordRange<K>, { key, value, version }: PageRow): RecordItem<K> {
  return { key: { kind, parts: keyParts(key) }, value: JSON.parse(value) as RecordTypes[K], version: Number(version) };
}

/** The row of `names`. */
export function namesOf(row: unknown): string[] {
  const { names } = (row ?? {}) as { names?: string | null };
  return names ? (JSON.parse(names) as string[]) : [];
}

/** Drivers give a Buffer or a Uint8Array; callers get the same type from every store. */
function plain(bytes: Uint8Array): Uint8Array {
  return Buffer.isBuffer(bytes) ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : bytes;
}
