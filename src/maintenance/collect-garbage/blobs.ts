import { type Digest, parseDigest } from "../../core/digest.js";
import type { RecordItem } from "../../core/metadata-store.js";
import { type MarkedBlob, markForDeletion, removeMarkedBlob, unmarkForDeletion } from "../../local/blob-references.js";
import { recordPages } from "../../local/every-record.js";
import type { ResumePlace } from "./collection.js";
import { batchSize, type Collection } from "./collection.js";
import { claimsOf } from "./referenced-bytes.js";
import { removeNamed } from "./remove-referenced.js";

/** Blobs that no repository of any registry claims: all are condemned first, then looked at again when nobody can still be about to open them. */
export async function collectBlobs(run: Collection, from: ResumePlace | undefined): Promise<void> {
  const { metadata } = run;
  let condemned: MarkedBlob[] = [];
  const remove = async () => {
    if (condemned.length === 0) return;
    if (!run.dryRun) await run.untilOpened();
    const unnamed = new Map(condemned.map((blob) => [blob.digest, blob]));
    const kept: MarkedBlob[] = [];
    // What a manifest names stays, also where no repository claims it, as under a sparse registry.
    if (!(await removeNamed(run, unnamed, (_, blob) => void kept.push(blob)))) {
      kept.push(...unnamed.values());
      unnamed.clear();
    }
    for (const { digest, blob } of run.dryRun ? unnamed.values() : []) removed(run, digest, blob);
    if (!run.dryRun) {
      await run.each(unnamed.values(), (blob) => removeUnclaimed(run, blob));
      await run.each(kept, (blob) => unmarkForDeletion(run.metadata, blob));
    }
    condemned = [];
  };
  // What is condemned and not removed yet has to be looked at again.
  let done = from?.[0];
  for await (const page of recordPages(metadata, "blob", [], done)) {
    await run.each(page, async (item) => {
      const blob = await condemnUnclaimed(run, item);
      if (blob) condemned.push(blob);
    });
    if (condemned.length >= batchSize) await remove();
    if (condemned.length === 0) done = page.at(-1)?.key.parts[0];
    run.tell(done === undefined ? [] : [done]);
  }
  await remove();
}

async function condemnUnclaimed(run: Collection, { key, value, version }: RecordItem<"blob">): Promise<MarkedBlob | undefined> {
  const { metadata, dryRun, counts } = run;
  counts.blobs.checked++;
  if (value.committedAt > run.graceBegan) return undefined;
  const digest = parseDigest(key.parts[0] ?? "");
  if (dryRun) {
    const given = run.givenClaims(digest);
    const unclaimed = (await claimsOf(metadata, digest, given + 1)) <= given;
    return unclaimed ? { digest, blob: value, condition: { key, is: "version", version } } : undefined;
  }
  if ((await claimsOf(metadata, digest, 1)) > 0) return undefined;
  return markForDeletion(metadata, digest, { value, version });
}

async function removeUnclaimed(run: Collection, condemned: MarkedBlob): Promise<void> {
  if ((await claimsOf(run.metadata, condemned.digest, 1)) > 0) await unmarkForDeletion(run.metadata, condemned);
  else if (await removeMarkedBlob(run.storage, condemned)) removed(run, condemned.digest, condemned.blob);
}

function removed(run: Collection, digest: Digest, { size, location }: { readonly size: number; readonly location: string }): void {
  run.counts.blobs.removed++;
  run.counts.blobs.bytes += size;
  run.counts.bytes += size;
  run.note({ what: "blob", digest, place: location, size, why: "no repository claims it" });
}
