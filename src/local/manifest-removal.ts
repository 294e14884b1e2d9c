import type { Digest } from "../core/digest.js";
import { followManifest } from "../core/manifest.js";
import type { Change, Condition } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { inTurns } from "../core/turn-budget.js";
import { recordPages } from "./every-record.js";
import type { Partition } from "./partition.js";
import { referrerRemovals } from "./referrers.js";

export interface ManifestRemoval {
  readonly conditions: readonly Condition[];
  readonly changes: readonly Change[];
  /** The tags that go with the manifest. */
  readonly tags: readonly string[];
}

/**
 * What deleting a manifest takes with it: every tag on it, its referrers entry, and the repository when nothing is left in it. `undefined` when
 * there is no such manifest. The conditions fail when a tag moved or a manifest was put in the meantime.
 */
export async function removalOf(partition: Partition, repository: string, digest: Digest): Promise<ManifestRemoval | undefined> {
  const { name, metadata, clock } = partition;
  const key = recordKey.manifest(name, repository, digest);
  const stored = await metadata.get(key);
  if (!stored?.bytes) return undefined;
  const conditions: Condition[] = [{ key, is: "version", version: stored.version }];
  const changes: Change[] = [{ remove: key }];
  changes.push(...(await referrerRemovals(partition, repository, followManifest(stored.bytes, stored.value.mediaType), digest)));
  const tags = await addTags(partition, repository, digest, conditions, changes);

  const home = recordKey.repository(name, repository);
  const repositoryRecord = await metadata.get(home);
  const left = await metadata.page({ kind: "manifest", under: [name, repository], limit: 2 });
  if (repositoryRecord) {
    // Rewritten even where it stays: of two that delete the last two manifests at the same time, one then has to look again.
    conditions.push({ key: home, is: "version", version: repositoryRecord.version });
    changes.push(left.length === 1 ? { remove: home } : { put: home, value: { updatedAt: clock.now() } });
  }
  return { conditions, changes, tags };
}

async function addTags(
  partition: Partition,
  repository: string,
  digest: Digest,
  conditions: Condition[],
  changes: Change[],
): Promise<string[]> {
  const { name, metadata } = partition;
  const tags: string[] = [];
  for await (const page of recordPages(metadata, "tagByDigest", [name, repository, digest])) {
    // One digest may have thousands of tags.
    await inTurns(page, 2, async ({ key }) => {
      const tag = recordKey.tag(name, repository, key.parts[3] ?? "");
      const stored = await metadata.get(tag);
      changes.push({ remove: key });
      if (stored?.value.digest !== digest) return;
      conditions.push({ key: tag, is: "version", version: stored.version });
      changes.push({ remove: tag });
      tags.push(tag.parts[2] ?? "");
    });
  }
  return tags;
}
