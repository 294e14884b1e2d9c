import type { Clock } from "../core/clock.js";
import type { Digest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import type { MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";

/** A conflict means that someone else's change went through; with so many in a row something other than contention is wrong. */
const attempts = 100;

/**
 * Takes the bytes at a location out of use, in one commit: the blob is absent for every repository that claims it, whose links stay, so that the next push
 * brings its bytes anew. The links of caches stay as well: they ask their source with the next pull, and the bytes that come back may be all that is left of it.
 *
 * The location stays on record, in quarantine: bytes that come back there, as when a backup is restored, are found by the next scrub, and garbage collection does
 * not take them for garbage.
 *
 * @param verdict.why what is wrong.
 * @returns whether they were in use still. Somebody may have restored, evicted or taken out the blob meanwhile.
 */
export async function takeOut(
  metadata: MetadataStore,
  clock: Clock,
  { digest, location }: { readonly digest: Digest; readonly location: string },
  { kind, why }: { readonly kind: "corrupt" | "missing"; readonly why: string },
): Promise<boolean> {
  const key = recordKey.blob(digest);
  for (let tries = 0; tries < attempts; tries++) {
    const blob = await metadata.get(key);
    // A location is never used again, so what was found out about it holds whatever else the record says.
    if (blob?.value.location !== location) return false;
    const { size } = blob.value;
    const kept = { size, why, at: clock.now(), ...(kind === "missing" && { missing: true as const }) };
    const changes = [{ remove: key }, { put: recordKey.quarantine(digest, location), value: kept }];
    if (await metadata.commit([{ key, is: "version", version: blob.version }], changes)) return true;
  }
  throw new RegistryError("UNAVAILABLE", `too many changes to ${digest} at the same time: try again`, { retryAfter: 1 });
}
