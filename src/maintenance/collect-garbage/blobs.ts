import { type Digest, parseDigest } from "../../core/digest.js";
import type { RecordItem } from "../../core/metadata-store.js";
import { type MarkedBlob, markForDeletion, removeMarkedBlob, unmarkForDeletion } from "../../local/blob-references.js";
import { recordPages } from "../../local/every-record.js";
import { batchSize, type Collection, type ResumePlace } from "./collection.js";
import { referencesTo } from "./referenced-bytes.js";
import { removeNamed } from "./remove-referenced.js";

/** Removes blobs that no repository of any registry refers to. A batch of them is marked first, and looked at again when nobody can still be about to open them. */
export async function collectBlobs(run: Collection, from: ResumePlace | undefined): Promise<void> {
  const { metadata } = run;
  let marked: MarkedBlob[] = [];
  const remove = async () => {
    if (marked.length === 0) return;
    if (!run.dryRun) await run.untilOpened();
    const unnamed = new Map(marked.map((blob) => [blob.digest, blob]));
    const kept: MarkedBlob[] = [];
    // What a manifest names stays, also where no repository refers to it, as under a sparse registry.
    if (!(await removeNamed(run, unnamed, (_, blob) => void kept.push(blob)))) {
      kept.push(...unnamed.values());
      unnamed.clear();
    }
    for (const { digest, blob } of run.dryRun ? unnamed.values() : []) removed(run, digest, blob);
    if (!run.dryRun) {
      await run.each(unnamed.values(), (blob) => removeUnreferenced(run, blob));
      await run.each(kept, (blob) => unmarkForDeletion(run.metadata, blob));
    }
    marked = [];
  };
  // What is marked and not removed yet has to be looked at again.
  let done = from?.[0];
  for await (const page of recordPages(metadata, "blob", [], done)) {
    await run.each(page, async (item) => {
      const blob = await markUnreferenced(run, item);
      if (blob) marked.push(blob);
    });
    if (marked.length >= batchSize) await remove();
    if (marked.length === 0) done = page.at(-1)?.key.parts[0];
    run.progress(done === undefined ? [] : [done]);
  }
  await remove();
}

async function markUnreferenced(run: Collection, { key, value, version }: RecordItem<"blob">): Promise<MarkedBlob | undefined> {
  const { metadata, dryRun, counts } = run;
  counts.blobs.checked++;
  if (value.committedAt > run.graceBegan) return undefined;
  const digest = parseDigest(key.parts[0] ?? "");
  if (dryRun) {
    const gone = run.removedReferences(digest);
    const unreferenced = (await referencesTo(metadata, digest, gone + 1)) <= gone;
    return unreferenced ? { digest, blob: value, condition: { key, is: "version", version } } : undefined;
  }
  if ((await referencesTo(metadata, digest, 1)) > 0) return undefined;
  return markForDeletion(metadata, digest, { value, version });
}

async function removeUnreferenced(run: Collection, marked: MarkedBlob): Promise<void> {
  if ((await referencesTo(run.metadata, marked.digest, 1)) > 0) await unmarkForDeletion(run.metadata, marked);
  else if (await removeMarkedBlob(run.storage, marked)) removed(run, marked.digest, marked.blob);
}

function removed(run: Collection, digest: Digest, { size, location }: { readonly size: number; readonly location: string }): void {
  run.counts.blobs.removed++;
  run.counts.blobs.bytes += size;
  run.counts.bytes += size;
  run.note({ what: "blob", digest, place: location, size, why: "no repository refers to it" });
}
