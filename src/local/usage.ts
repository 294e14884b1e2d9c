import { parseDigest } from "../core/digest.js";
import type { MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { expectedSizeOf } from "./blob-claim.js";
import { recordPages } from "./every-record.js";

const pageSize = 1000;

/** What a registry takes up, counted anew from its records, in bounded memory. */
export async function countUsage(metadata: MetadataStore, name: string): Promise<{ bytes: number; repositories: number }> {
  let bytes = 0;
  for await (const page of recordPages(metadata, "link", [name])) {
    for (const { key, value } of page) {
      const [, repository, digest = ""] = key.parts;
      // A blob of several repositories counts in the first of them; names may lag behind another process.
      const [first] = await metadata.page({ kind: "linkByDigest", under: [digest, name], limit: 1 });
      if (first?.key.parts[2] === repository) bytes += expectedSizeOf(value) ?? 0;
    }
  }
  for await (const page of recordPages(metadata, "manifest", [name])) {
    for (const { key } of page) {
      const [, repository = "", digest = ""] = key.parts;
      bytes += (await metadata.get(recordKey.manifest(name, repository, parseDigest(digest))))?.bytes?.byteLength ?? 0;
    }
  }
  let repositories = 0;
  for (let after: string | undefined; ; ) {
    const names = await metadata.names({ kind: "repository", under: [name], limit: pageSize, ...(after !== undefined && { after }) });
    repositories += names.length;
    after = names.at(-1);
    if (names.length < pageSize) return { bytes, repositories };
  }
}
