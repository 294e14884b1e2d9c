import { algorithmOf, type Digest, digestAlgorithms } from "../../core/digest.js";
import type { MetadataStore } from "../../core/metadata-store.js";
import { recordKey } from "../../core/records.js";
import { recordPages } from "../../local/every-record.js";
import { type StoredBytes, storedBytesAt } from "../../local/stored-bytes.js";
import { inParallel } from "../in-parallel.js";
import type { Collection } from "./collection.js";
import { removeNamed } from "./remove-referenced.js";

/** Most are small, and waited for over a network where there are many. */
const readAtOnce = 8;

/** Reads what is about to be deleted: no record says what it is, or the one that did was wrong about it. */
export async function readAll(run: Collection, locations: Iterable<string>): Promise<Map<string, StoredBytes>> {
  const found = new Map<string, StoredBytes>();
  await inParallel(locations, { concurrency: readAtOnce, signal: run.signal }, async (location, signal) => {
    await run.pause();
    found.set(location, await storedBytesAt(run.blobs, location, digestAlgorithms, { signal }));
  });
  return found;
}

/**
 * Which bytes have to stay: those that are the blob of a digest that a repository claims or a stored manifest names, unless the store has whole bytes of it at the
 * location that is recorded. What they were stored as does not matter, nor what a manifest says of their size.
 *
 * @returns the digest by location; "everything" when a manifest cannot be read, so that nobody knows what it names.
 */
export async function wantedAmong(
  run: Collection,
  found: ReadonlyMap<string, StoredBytes>,
): Promise<ReadonlyMap<string, Digest> | "everything"> {
  const unclaimed = new Map<Digest, string[]>();
  for (const [location, bytes] of found) {
    if (typeof bytes === "string") continue;
    for (const digest of bytes.digests) unclaimed.set(digest, [...(unclaimed.get(digest) ?? []), location]);
  }
  const wanted = new Map<Digest, string[]>();
  await run.each([...unclaimed], async ([digest, locations]) => {
    if ((await claimsOf(run.metadata, digest, 1)) === 0) return;
    unclaimed.delete(digest);
    wanted.set(digest, locations);
  });
  if (!(await removeNamed(run, unclaimed, (digest, locations) => void wanted.set(digest, locations)))) return "everything";
  const stay = new Map<string, Digest>();
  for (const [digest, locations] of wanted) {
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

/** How many repositories claim the bytes, up to `enough`: a link with an origin claims none. */
export async function claimsOf(metadata: MetadataStore, digest: Digest, enough: number): Promise<number> {
  let claims = 0;
  for await (const page of recordPages(metadata, "linkByDigest", [digest])) {
    for (const { key } of page) {
      const [, registry = "", repository = ""] = key.parts;
      const link = await metadata.get(recordKey.link(registry, repository, digest));
      if (link && !link.value.origin && ++claims === enough) return claims;
    }
  }
  return claims;
}
