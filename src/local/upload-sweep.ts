import { isStorageFull } from "../core/errors.js";
import type { RecordItem, Storage } from "../core/metadata-store.js";
import type { UploadRecord } from "../core/records.js";

/** Whether somebody may still go on with a session, or is at it. */
export function isAlive(record: UploadRecord, now: number): boolean {
  return record.expiresAt > now || (record.writer !== undefined && record.writer.expiresAt > now);
}

/** Ends a session that has expired and frees its bytes. False when somebody has gone on with it meanwhile. */
export async function endUpload({ metadata, blobs }: Storage, { key, value, version }: RecordItem<"upload">): Promise<boolean> {
  // Committed ones are only remembered.
  const free = async () => {
    if (!value.committed) await blobs.discardStaged(key.parts[1] ?? "");
  };
  const removed = () => metadata.commit([{ key, is: "version", version }], [{ remove: key }]);
  // On a full disk there is room to remove the record once the bytes are gone.
  const removedAfter = async (error: unknown) => {
    if (!isStorageFull(error)) throw error;
    await free();
    return removed();
  };
  if (!(await removed().catch(removedAfter))) return false;
  await free();
  return true;
}
