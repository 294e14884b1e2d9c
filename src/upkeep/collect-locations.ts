import type { BlobStore } from "../core/blob-store.js";
import { recordPages } from "../local/every-record.js";
import { leftover } from "../local/leftovers.js";
import { batchSize, type Collection } from "./collection.js";
import type { Place } from "./collection-report.js";
import { Tally } from "./tally.js";

const pageSize = 1000;
/** How many old locations are compared with the records in one walk over these: as hashes, some 25 MB. */
const comparedAtOnce = 1_000_000;

type Stored = Awaited<ReturnType<BlobStore["list"]>>["items"][number];

/** Committed bytes that no record names: of processes that were killed before they could write it, or after they had removed it. */
export async function collectLocations(run: Collection, from: Place | undefined): Promise<void> {
  let after = from?.[0];
  do {
    const unnamed = new Tally();
    const { last, more } = await hashesOfOld(run, after, unnamed);
    if (unnamed.size > 0) await forNamed(run, (location) => unnamed.delete(location));
    if (unnamed.size > 0) await deleteUnnamed(run, { after, last }, unnamed);
    if (last !== undefined) run.tell([last]);
    after = more ? last : undefined;
  } while (after !== undefined);
}

async function hashesOfOld(
  run: Collection,
  after: string | undefined,
  hashes: Tally,
): Promise<{ last: string | undefined; more: boolean }> {
  let last = after;
  for await (const page of listed(run, after)) {
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
  unnamed: Tally,
): Promise<void> {
  let batch = new Map<string, Stored>();
  for await (const page of listed(run, after)) {
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

/** Looks again when nobody can still be about to open them, and nobody can write down any more where they are. */
async function deleteBatch(run: Collection, batch: Map<string, Stored>): Promise<void> {
  const { blobs, counts, dryRun, metadata, clock } = run;
  if (!dryRun) {
    await run.untilOpened();
    await run.each(batch.keys(), async (location) => void (await metadata.commit([], [leftover(location, clock.now())])));
    await forNamed(run, (location) => batch.delete(location));
  }
  await run.each(batch.values(), async ({ location, size }) => {
    if (!dryRun) await blobs.delete(location);
    counts.locations.deleted++;
    counts.locations.bytes += size;
    counts.bytes += size;
    run.note({ what: "location", place: location, size, why: "no record names it" });
  });
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

async function* listed({ blobs }: Collection, start: string | undefined): AsyncGenerator<readonly Stored[]> {
  let after = start;
  do {
    const { items, next } = await blobs.list({ limit: pageSize, ...(after !== undefined && { after }) });
    yield items;
    after = next;
  } while (after !== undefined);
}
