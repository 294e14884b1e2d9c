import { createReadStream, existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { sqliteMetadata } from "oci-manifold/storage/files";
import { Hasher } from "../../src/core/digest.js";

export interface FolderContents {
  /** Files of `uploads/`. */
  readonly staged: readonly string[];
  /** How many upload sessions are recorded. */
  readonly sessions: number;
  /** How many blobs are recorded; each was read and is what its digest says. */
  readonly blobs: number;
  /** Files below `blobs/` that no record names: pushes that were killed between the file and its record. */
  readonly unrecorded: number;
}

/** What is in the folder of a registry that nobody runs. @throws for a recorded blob that is not whole. */
export async function contentsOf(folder: string): Promise<FolderContents> {
  const metadata = sqliteMetadata(folder);
  try {
    const records = await metadata.page({ kind: "blob", under: [], limit: 1_000_000 });
    const locations = new Set<string>();
    for (const { key, value } of records) {
      const [digest = ""] = key.parts;
      const hasher = new Hasher("sha256");
      for await (const chunk of createReadStream(join(folder, value.location))) hasher.update(chunk);
      if (hasher.digest() !== digest) throw new Error(`${value.location} is not ${digest}`);
      locations.add(value.location);
    }
    const files = existsSync(join(folder, "blobs", "sha256")) ? readdirSync(join(folder, "blobs", "sha256"), { recursive: true }) : [];
    const stored = files.map(String).filter((name) => name.includes("."));
    return {
      staged: readdirSync(join(folder, "uploads")),
      sessions: (await metadata.page({ kind: "upload", under: [], limit: 1_000_000 })).length,
      blobs: records.length,
      unrecorded: stored.filter((name) => !locations.has(`blobs/sha256/${name}`)).length,
    };
  } finally {
    await metadata.close();
  }
}
