import type { Clock } from "../core/clock.js";
import { algorithmOf, type Digest } from "../core/digest.js";
import type { MetadataStore, Storage } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { notOrphaned } from "./blob-bytes.js";
import { type StoredBytesOptions, storedBytesAt } from "./stored-bytes.js";

/**
 * What became of bytes that a scrub had taken out of use. `replaced`: other bytes of the digest are in use, or it is in quarantine no more. `corrupt`, `missing` and
 * `unreadable`: they stay where they are.
 */
type Readoption = "readopted" | "replaced" | "corrupt" | "missing" | "unreadable";

/**
 * Takes bytes into use again that are back at the location where they were recorded: a scrub that ran while a backup was copied back found them missing or cut
 * short. All repositories that refer to the blob have it again.
 *
 * @throws the signal's reason, and what `read` throws.
 */
export async function readoptBlob(
  { blobs, metadata, clock }: Storage & { readonly clock: Clock },
  { digest, location }: { readonly digest: Digest; readonly location: string },
  o: StoredBytesOptions = {},
): Promise<Readoption> {
  const key = recordKey.quarantine(digest, location);
  const kept = await metadata.get(key);
  const blob = recordKey.blob(digest);
  if (!kept || (await metadata.get(blob))) return "replaced";
  const { size } = kept.value;
  const bytes = await storedBytesAt(blobs, location, [algorithmOf(digest)], o);
  if (typeof bytes === "string") return bytes;
  if (bytes.size !== size || !bytes.digests.includes(digest)) return "corrupt";
  const committed = await metadata.commit(
    [{ key, is: "version", version: kept.version }, { key: blob, is: "absent" }, notOrphaned(location)],
    [{ put: blob, value: { location, size, committedAt: clock.now() } }, { remove: key }],
  );
  return committed ? "readopted" : "replaced";
}

/**
 * Whether a blob is in use again, from whichever of its locations in quarantine has its bytes.
 * @param o.except a location that is not looked at.
 */
export async function readoptFromQuarantine(
  storage: Storage & { readonly clock: Clock },
  digest: Digest,
  o: StoredBytesOptions & { readonly except?: string } = {},
): Promise<boolean> {
  for (const location of await quarantinedLocations(storage.metadata, digest)) {
    if (location === o.except) continue;
    if ((await readoptBlob(storage, { digest, location }, o)) === "readopted") return true;
  }
  return false;
}

/** A digest is taken out a few times at the most: each time somebody had stored it anew. */
const mostLocations = 100;

async function quarantinedLocations(metadata: MetadataStore, digest: Digest): Promise<string[]> {
  const items = await metadata.page({ kind: "quarantine", under: [digest], limit: mostLocations });
  return items.map(({ key }) => key.parts[1] ?? "");
}
