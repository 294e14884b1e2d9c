import type { BlobStore } from "../../core/blob-store.js";
import type { Digest } from "../../core/digest.js";
import { recordKey } from "../../core/records.js";
import { orphaned, ownOrphan } from "../../local/blob-bytes.js";
import { recordPages } from "../../local/every-record.js";
import { DigestCounts } from "../digest-counts.js";
import { batchSize, type Collection, type ResumePlace } from "./collection.js";
import { readAll, referencedAmong } from "./referenced-bytes.js";

const pageSize = 1000;

type CommittedBytes = Awaited<ReturnType<BlobStore["list"]>>["items"][number];

/** How many old locations are compared with the records in one walk over these: as hashes, some 45 MB. */
const comparedAtOnce = 1_000_000;

/**
 * Deletes orphans: committed bytes that no record names, of processes that were killed before they could write one, or after they had removed it. The locations of the
 * store are compared with the records part by part. What is old and not named is read, so that bytes which a repository needs go into quarantine instead.
 */
export async function collectLocations(run: Collection, from: ResumePlace | undefined): Promise<void> {
  // The records of a folder were lost, and its host has begun with an empty database: the bytes are wanted again once their manifests are back.
  const spared = await run.metadata.get(recordKey.lease("spared", "locations"));
  if (spared && spared.value.expiresAt > run.clock.now()) return;
  let after = from?.[0];
  do {
    const unnamed = new DigestCounts();
    const { last, more } = await hashesOfOld(run, after, unnamed);
    if (unnamed.size > 0) await forNamed(run, (location) => unnamed.delete(location));
    if (unnamed.size > 0) await deleteUnnamed(run, { after, last }, unnamed);
    if (last !== undefined) run.progress([last]);
    after = more ? last : undefined;
  } while (after !== undefined);
}

async function hashesOfOld(
  run: Collection,
  after: string | undefined,
  hashes: DigestCounts,
): Promise<{ last: string | undefined; more: boolean }> {
  let last = after;
  for await (const page of committedLocations(run.blobs, after)) {
    await run.pause();
    for (const { location, modifiedAt } of page) {
      run.counts.locations.checked++;
      last = location;
      if (modifiedAt <= run.graceBegan) hashes.add(location);
    }
    if (hashes.size >= comparedAtOnce) return { last, more: true };
  }
  return { last, more: false };
}

/** Lists a part again, since only hashes of it were kept. */
async function deleteUnnamed(
  run: Collection,
  { after, last }: { readonly after: string | undefined; readonly last: string | undefined },
  unnamed: DigestCounts,
): Promise<void> {
  let batch = new Map<string, CommittedBytes>();
  for await (const page of committedLocations(run.blobs, after)) {
    for (const stored of page) {
      if (last !== undefined && stored.location > last) break;
      if (stored.modifiedAt <= run.graceBegan && unnamed.count(stored.location) > 0) batch.set(stored.location, stored);
    }
    if (batch.size >= batchSize) {
      await deleteBatch(run, batch);
      batch = new Map();
    }
    if (last !== undefined && (page.at(-1)?.location ?? "") >= last) break;
  }
  if (batch.size > 0) await deleteBatch(run, batch);
}

/** Looks again when nobody can still be about to open them, and nobody can record their locations any more. */
async function deleteBatch(run: Collection, batch: Map<string, CommittedBytes>): Promise<void> {
  const { blobs, counts, dryRun, metadata, clock } = run;
  if (!dryRun) await run.untilOpened();
  const found = await readAll(run, batch.keys());
  if (!dryRun) {
    await run.each(found.keys(), async (location) => void (await metadata.commit([], [orphaned(location, clock.now(), run.id)])));
    await forNamed(run, (location) => found.delete(location));
  }
  const referenced = await referencedAmong(run, found);
  if (referenced === "everything") return;
  await run.each(found, async ([location, bytes]) => {
    // Nobody knows what bytes are that cannot be read.
    if (typeof bytes === "string") return;
    const digest = referenced.get(location);
    if (digest) return quarantine(run, digest, location, bytes.size);
    if (!dryRun) await blobs.delete(location);
    counts.locations.deleted++;
    counts.locations.bytes += bytes.size;
    counts.bytes += bytes.size;
    run.note({ what: "location", place: location, size: bytes.size, why: "no record names it" });
  });
}

/**
 * Bytes that no record names may be those of a blob whose record was lost, or leads to where nothing is: a scrub of an earlier version ran before a restore had
 * ended, or records are older than bytes. They are put into quarantine, from where the next scrub or repair takes them into use.
 */
async function quarantine(run: Collection, digest: Digest, location: string, size: number): Promise<void> {
  const { metadata, clock, dryRun, id } = run;
  run.fault(
    "",
    `a manifest or a repository refers to ${digest}, and its bytes are stored without a record: a scrub or a repair takes them into use again`,
  );
  if (dryRun) return;
  // Another collection that has written its lease since may be about to delete the bytes.
  const lease = await ownOrphan(metadata, location, id);
  const value = { size, why: "no record named it", at: clock.now() };
  if (lease) await metadata.commit([lease.condition], [lease.end, { put: recordKey.quarantine(digest, location), value }]);
}

async function forNamed(run: Collection, named: (location: string) => void): Promise<void> {
  for await (const page of recordPages(run.metadata, "blob", [])) {
    await run.pause();
    for (const { value } of page) named(value.location);
  }
  for await (const page of recordPages(run.metadata, "quarantine", [])) {
    await run.pause();
    for (const { key } of page) named(key.parts[1] ?? "");
  }
}

/** All committed locations of a store, in order, page by page. */
async function* committedLocations(blobs: BlobStore, start?: string): AsyncGenerator<readonly CommittedBytes[]> {
  let after = start;
  do {
    const { items, next } = await blobs.list({ limit: pageSize, ...(after !== undefined && { after }) });
    yield items;
    after = next;
  } while (after !== undefined);
}
