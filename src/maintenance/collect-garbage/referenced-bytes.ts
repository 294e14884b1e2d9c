import { algorithmOf, type Digest, digestAlgorithms } from "../../core/digest.js";
import type { MetadataStore } from "../../core/metadata-store.js";
import { recordKey } from "../../core/records.js";
import { recordPages } from "../../local/every-record.js";
import { type StoredBytes, storedBytesAt } from "../../local/stored-bytes.js";
import { inParallel } from "../in-parallel.js";
import type { Collection } from "./collection.js";
import { removeNamed } from "./remove-referenced.js";

/** Most are small, and a store with many of them is reached over a network. */
const readAtOnce = 8;

/** Reads bytes that are about to be deleted: no record says what they are, or the one that did was wrong about them. */
export async function readAll(run: Collection, locations: Iterable<string>): Promise<Map<string, StoredBytes>> {
  const found = new Map<string, StoredBytes>();
  await inParallel(locations, { concurrency: readAtOnce, signal: run.signal }, async (location, signal) => {
    await run.pause();
    found.set(location, await storedBytesAt(run.blobs, location, digestAlgorithms, { signal }));
  });
  return found;
}

/**
 * Which bytes have to stay: those that are a blob to which a repository has a blob reference or which a stored manifest names, unless the store has whole bytes of
 * it at the location that is recorded. What they were stored as does not matter, nor what a manifest says of their size.
 *
 * @returns the digest by location; "everything" when a manifest cannot be read, so that nobody knows what it names.
 */
export async function referencedAmong(
  run: Collection,
  found: ReadonlyMap<string, StoredBytes>,
): Promise<ReadonlyMap<string, Digest> | "everything"> {
  const unreferenced = new Map<Digest, string[]>();
  for (const [location, bytes] of found) {
    if (typeof bytes === "string") continue;
    for (const digest of bytes.digests) unreferenced.set(digest, [...(unreferenced.get(digest) ?? []), location]);
  }
  const referenced = new Map<Digest, string[]>();
  await run.each([...unreferenced], async ([digest, locations]) => {
    if ((await referencesTo(run.metadata, digest, 1)) === 0) return;
    unreferenced.delete(digest);
    referenced.set(digest, locations);
  });
  if (!(await removeNamed(run, unreferenced, (digest, locations) => void referenced.set(digest, locations)))) return "everything";
  const stay = new Map<string, Digest>();
  for (const [digest, locations] of referenced) {
    const recorded = (await run.metadata.get(recordKey.blob(digest)))?.value.location;
    const whole = recorded !== undefined && (await hasDigest(run, recorded, digest));
    for (const location of locations) if (!whole || location === recorded) stay.set(location, digest);
  }
  return stay;
}

async function hasDigest({ blobs, signal }: Collection, location: string, digest: Digest): Promise<boolean> {
  const bytes = await storedBytesAt(blobs, location, [algorithmOf(digest)], { signal });
  return typeof bytes !== "string" && bytes.digests.includes(digest);
}

/** How many repositories refer to the bytes here, up to `enough`. A blob reference with an origin refers to bytes elsewhere. */
export async function referencesTo(metadata: MetadataStore, digest: Digest, enough: number): Promise<number> {
  let count = 0;
  for await (const page of recordPages(metadata, "linkByDigest", [digest])) {
    for (const { key } of page) {
      const [, registry = "", repository = ""] = key.parts;
      const reference = await metadata.get(recordKey.link(registry, repository, digest));
      if (reference && !reference.value.origin && ++count === enough) return count;
    }
  }
  return count;
}
