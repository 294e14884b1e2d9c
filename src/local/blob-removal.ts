import type { Digest } from "../core/digest.js";
import type { Change, Condition, MetadataStore, Storage, StoredRecord } from "../core/metadata-store.js";
import { type RecordTypes, recordKey } from "../core/records.js";

/** A blob that is about to be removed. `condition`: nobody has come to rely on it since it was marked. */
export interface CondemnedBlob {
  readonly digest: Digest;
  readonly blob: Omit<RecordTypes["blob"], "condemned">;
  readonly condition: Condition;
}

/** Marks a blob. Claims are looked at afterwards: one that was made before is seen then, one that is made later lifts the mark. `undefined` when it has changed. */
export async function condemnBlob(
  metadata: MetadataStore,
  digest: Digest,
  { value, version }: StoredRecord<"blob">,
): Promise<CondemnedBlob | undefined> {
  const key = recordKey.blob(digest);
  if (!value.condemned && !(await metadata.commit([{ key, is: "version", version }], [{ put: key, value: { ...value, condemned: true } }])))
    return undefined;
  const held = await metadata.get(key);
  if (!held?.value.condemned) return undefined;
  const { condemned: _, ...blob } = held.value;
  return { digest, blob, condition: { key, is: "version", version: held.version } };
}

export async function pardonBlob(metadata: MetadataStore, { digest, blob, condition }: CondemnedBlob): Promise<void> {
  await metadata.commit([condition], [{ put: recordKey.blob(digest), value: blob }]);
}

/** Whether it is gone: not when somebody has come to rely on it. The record goes first, so that none leads nowhere. */
export async function removeBlob(
  { metadata, blobs }: Storage,
  { digest, blob, condition }: CondemnedBlob,
  changes: readonly Change[] = [],
): Promise<boolean> {
  if (!(await metadata.commit([condition], [...changes, { remove: recordKey.blob(digest) }]))) return false;
  await blobs.delete(blob.location);
  return true;
}
