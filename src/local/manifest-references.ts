import type { Digest } from "../core/digest.js";
import type { Manifest } from "../core/manifest.js";
import type { Change, Condition } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { keptReferences, missingReference, requiredReferences } from "../core/references.js";
import { inTurns } from "../core/turn-budget.js";
import { withoutMark } from "./link-use.js";
import type { Partition } from "./partition.js";

/**
 * What must be so of a manifest's references at the moment it is stored, and what is stored with it. Each link that it relies on is a condition in exactly the
 * version that was read, and a mark on it is lifted: a collection that condemned the link before sees the new version and leaves it, one that condemns it
 * meanwhile makes the commit fail.
 *
 * @param o.checked config, layers and children must be known.
 * @param o.refused a commit with these conditions failed before. Bytes are rarely lost, so only then it is looked which.
 * @throws RegistryError MANIFEST_BLOB_UNKNOWN for one that is not.
 */
export async function relyOnReferences(
  { name, metadata }: Partition,
  repository: string,
  manifest: Manifest,
  o: { readonly checked: boolean; readonly refused: boolean },
): Promise<{ conditions: Condition[]; changes: Change[] }> {
  const { blobs, children } = requiredReferences(manifest);
  const required = new Set<Digest>(o.checked ? [...blobs, ...children].map(({ digest }) => digest) : []);
  const conditions: Condition[] = [];
  const changes: Change[] = [];
  const rely = async (descriptor: Manifest["layers"][number]): Promise<void> => {
    const { digest } = descriptor;
    // BuildKit's older cache layout lists blobs as children of an index.
    const child = manifest.kind === "index" ? recordKey.manifest(name, repository, digest) : undefined;
    if (child && (await metadata.get(child))) {
      if (o.checked) conditions.push({ key: child, is: "present" });
      return;
    }
    const key = recordKey.link(name, repository, digest);
    const link = await metadata.get(key);
    if (!link) {
      if (required.has(digest)) throw missingReference(descriptor);
      return;
    }
    if (!link.value.origin && required.has(digest)) {
      // A link without origin claims bytes of this store, and those may be lost: then the client is to push them again.
      const blob = recordKey.blob(digest);
      if (o.refused && !(await metadata.get(blob))) throw missingReference(descriptor);
      conditions.push({ key: blob, is: "present" });
    }
    conditions.push({ key, is: "version", version: link.version });
    if (link.value.condemned) changes.push({ put: key, value: withoutMark(link.value) });
  };
  // Thousands, where an index says so; the first that is missing ends it.
  await inTurns(keptReferences(manifest), 3, rely);
  return { conditions, changes };
}
