import { parseDigest } from "../core/digest.js";
import type { MetadataStore, RecordItem } from "../core/metadata-store.js";
import { type RecordKind, recordKey } from "../core/records.js";

const pageSize = 1000;

/** What a registry takes up, counted anew from its records, in bounded memory. */
export async function countUsage(metadata: MetadataStore, name: string): Promise<{ bytes: number; repositories: number }> {
  let bytes = 0;
  for await (const { key, value } of everyRecord(metadata, "link", name)) {
    const [, repository, digest = ""] = key.parts;
    // A blob of several repositories counts in the first of them.
    const [first] = await metadata.names({ kind: "linkByDigest", under: [digest, name], limit: 1 });
    if (first === repository) bytes += value.size;
  }
  for await (const { key } of everyRecord(metadata, "manifest", name)) {
    const [, repository = "", digest = ""] = key.parts;
    bytes += (await metadata.get(recordKey.manifest(name, repository, parseDigest(digest))))?.bytes?.byteLength ?? 0;
  }
  let repositories = 0;
  for (let after: string | undefined; ; ) {
    const names = await metadata.names({ kind: "repository", under: [name], limit: pageSize, ...(after !== undefined && { after }) });
    repositories += names.length;
    after = names.at(-1);
    if (names.length < pageSize) return { bytes, repositories };
  }
}

/** Records under [registry, repository, …]: a page cannot begin in the middle of a repository, so each is read by itself. */
async function* everyRecord<K extends RecordKind>(metadata: MetadataStore, kind: K, name: string): AsyncGenerator<RecordItem<K>> {
  let repository: string | undefined;
  while (true) {
    const [first] = await metadata.page({ kind, under: [name], limit: 1, ...(repository !== undefined && { after: repository }) });
    repository = first?.key.parts[1];
    if (repository === undefined) return;
    let after: string | undefined;
    do {
      const page: readonly RecordItem<K>[] = await metadata.page({
        kind,
        under: [name, repository],
        limit: pageSize,
        ...(after !== undefined && { after }),
      });
      yield* page;
      after = page.length === pageSize ? page.at(-1)?.key.parts[2] : undefined;
    } while (after !== undefined);
  }
}
