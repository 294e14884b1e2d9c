import type { Digest } from "../core/digest.js";
import { parseDigest } from "../core/digest.js";
import { followManifest } from "../core/manifest.js";
import type { StoredRecord } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { keptReferences } from "../core/references.js";
import type { Collection } from "./collection.js";

/** Manifests in memory at a time: each may have 4 MiB. */
const pageSize = 8;
const namesAtOnce = 1000;

/**
 * Takes out of `candidates` what the repository's manifests refer to.
 *
 * @param struck is told of each.
 * @returns false when a manifest cannot be read. It is told as a fault.
 */
export async function strikeReferences<T>(
  run: Collection,
  registry: string,
  repository: string,
  candidates: Map<Digest, T>,
  struck: (digest: Digest, candidate: T) => void,
): Promise<boolean> {
  const { metadata } = run;
  let after: string | undefined;
  do {
    const page = await metadata.page({
      kind: "manifest",
      under: [registry, repository],
      limit: namesAtOnce,
      ...(after !== undefined && { after }),
    });
    after = page.length === namesAtOnce ? page.at(-1)?.key.parts[2] : undefined;
    for (let at = 0; at < page.length; at += pageSize) {
      if (candidates.size === 0) return true;
      await run.pause();
      const some = page.slice(at, at + pageSize).map(({ key }) => parseDigest(key.parts[2] ?? ""));
      const stored = await Promise.all(some.map((digest) => storedManifest(run, registry, repository, digest)));
      for (const [index, manifest] of stored.entries()) {
        try {
          if (!manifest) continue;
          if (!manifest.bytes) throw new Error("its bytes are missing");
          for (const { digest } of keptReferences(followManifest(manifest.bytes, manifest.value.mediaType))) {
            const candidate = candidates.get(digest);
            if (candidate === undefined) continue;
            candidates.delete(digest);
            struck(digest, candidate);
          }
        } catch (error) {
          run.counts.skipped++;
          run.fault(registry, `the claims of ${repository} are left alone, since ${some[index]} cannot be read: ${String(error)}`);
          return false;
        }
      }
    }
  } while (after !== undefined);
  return true;
}

/** A store may read from memory what another process changed a moment ago: that a listed manifest is gone must hold at this moment. */
async function storedManifest(
  { metadata }: Collection,
  registry: string,
  repository: string,
  digest: Digest,
): Promise<StoredRecord<"manifest"> | undefined> {
  const key = recordKey.manifest(registry, repository, digest);
  for (;;) {
    const stored = await metadata.get(key);
    if (stored || (await metadata.commit([{ key, is: "absent" }], []))) return stored;
  }
}
