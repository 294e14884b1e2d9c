import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ForeignBytes } from "oci-manifold/extend";
import { temporaryFolder } from "./temporary-folder.js";

/** A file of another program, in a folder of its own. */
export async function foreignFile(
  data: Uint8Array,
): Promise<{ source: ForeignBytes; read(): Promise<Uint8Array>; remove(): Promise<void> }> {
  const folder = await temporaryFolder();
  const path = join(folder.path, "data");
  await writeFile(path, data);
  return { source: { kind: "file", path }, read: () => readFile(path), remove: folder.remove };
}
