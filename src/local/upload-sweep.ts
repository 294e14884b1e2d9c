import type { RecordItem, Storage } from "../core/metadata-store.js";
import type { UploadRecord } from "../core/records.js";

/** Whether somebody may still go on with a session, or is at it. */
export function isAlive(record: UploadRecord, now: number): boolean {
  return record.expiresAt > now || (record.writer !== undefined && record.writer.expiresAt > now);
}

/** Ends a session that has expired and frees its bytes. False when somebody has gone on with it meanwhile. */
export async function endUpload({ metadata, blobs }: Storage, { key, value, version }: RecordItem<"upload">): Promise<boolean> {
  if (!(await metadata.commit([{ key, is: "version", version }], [{ remove: key }]))) return false;
  // Committed ones are only remembered.
  if (!value.committed) await blobs.discardStaged(key.parts[1] ?? "");
  return true;
}
