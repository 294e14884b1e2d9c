import type { BlobStore } from "../core/blob-store.js";
import { algorithmOf, type Digest, Hasher } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { largePiece, paced } from "../core/pace.js";
import { recordKey } from "../core/records.js";
import { recordPages } from "../local/every-record.js";
import { leftover } from "../local/leftovers.js";
import { batchSize, type Collection } from "./collection.js";
import type { Place } from "./collection-report.js";
import { eachReference, repositoriesWithManifests } from "./strike-references.js";
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
  await spareNamedByManifests(run, batch);
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

/** Digests without bytes that are remembered for one batch: a store that lacks more of what its manifests name has been restored in part. */
const lackingAtOnce = 100_000;

/**
 * Takes out of the batch what a stored manifest lacks: bytes that no record names may be those of a blob whose record was lost, as when a scrub of an earlier version
 * ran before a restore had ended. They are put into quarantine, from where the next scrub or repair takes them into use.
 */
async function spareNamedByManifests(run: Collection, batch: Map<string, Stored>): Promise<void> {
  const lacking = await blobsLacking(run, new Set([...batch.values()].map(({ size }) => size)));
  if (lacking === "too many") {
    run.fault(
      "",
      "bytes that no record names are left alone, since manifests name too many blobs that have no bytes: restore or repair the storage first",
    );
    batch.clear();
    return;
  }
  const sizes = new Set(lacking.values());
  for (const { location, size } of [...batch.values()].filter((stored) => sizes.has(stored.size))) {
    const digest = await whichOf(run, location, lacking);
    if (digest === undefined) continue;
    batch.delete(location);
    if (digest === "unreadable") continue;
    run.fault(
      "",
      `${digest} is named by a manifest, and its bytes are stored without a record: a scrub or a repair takes them into use again`,
    );
    if (run.dryRun) continue;
    const why = "its record was lost";
    await run.metadata.commit(
      [{ key: recordKey.blob(digest), is: "absent" }],
      [{ put: recordKey.quarantine(digest, location), value: { size, why, at: run.clock.now() } }],
    );
  }
}

/** What manifests refer to and has no bytes here, of these sizes. */
async function blobsLacking(run: Collection, sizes: ReadonlySet<number>): Promise<ReadonlyMap<Digest, number> | "too many"> {
  const lacking = new Map<Digest, number>();
  const named = new Map<Digest, number>();
  const look = async () => {
    await run.each(named, async ([digest, size]) => {
      if (!(await run.metadata.get(recordKey.blob(digest)))) lacking.set(digest, size);
    });
    named.clear();
  };
  for await (const [registry, repository] of repositoriesWithManifests(run)) {
    const readable = await eachReference(run, registry, repository, ({ digest, size }) => {
      if (sizes.has(size) && !lacking.has(digest)) named.set(digest, size);
      return named.size + lacking.size > lackingAtOnce ? "enough" : undefined;
    });
    const tooMany = named.size > lackingAtOnce;
    await look();
    if (!readable || tooMany || lacking.size > lackingAtOnce) return "too many";
  }
  return lacking;
}

/** The digest of the bytes at a location, where it is one of these; by every algorithm that they use. */
async function whichOf(
  { blobs }: Collection,
  location: string,
  digests: ReadonlyMap<Digest, number>,
): Promise<Digest | "unreadable" | undefined> {
  const algorithms = new Set([...digests.keys()].map(algorithmOf));
  const hashers = [...algorithms].map((algorithm) => new Hasher(algorithm));
  try {
    for await (const chunk of paced(blobs.read(location), largePiece)) for (const hasher of hashers) hasher.update(chunk);
  } catch (error) {
    return isRegistryError(error) && error.code === "BLOB_UNKNOWN" ? undefined : "unreadable";
  }
  return hashers.map((hasher) => hasher.digest()).find((digest) => digests.has(digest));
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
