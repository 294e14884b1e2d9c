import { isDeepStrictEqual } from "node:util";
import type { Digest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import type { LinkedBlob, Origin } from "../core/lookup.js";
import { mediaTypes } from "../core/media-types.js";
import type { Change, Condition } from "../core/metadata-store.js";
import { type RecordTypes, recordKey } from "../core/records.js";
import { useOf } from "./link-use.js";
import type { Partition } from "./partition.js";

/** A conflict means that someone else's change went through; with so many in a row something other than contention is wrong. */
export const attempts = 100;

/** That the bytes are here and stay: each new claim to them is conditional on it, and lifts a condemnation. */
export interface KeptBlob {
  readonly blob: Omit<RecordTypes["blob"], "condemned">;
  readonly condition: Condition;
  readonly pardon: readonly Change[];
}

export async function keptBlob({ metadata }: Partition, digest: Digest): Promise<KeptBlob | undefined> {
  const key = recordKey.blob(digest);
  const stored = await metadata.get(key);
  if (!stored) return undefined;
  const { condemned, ...blob } = stored.value;
  return { blob, condition: { key, is: "version", version: stored.version }, pardon: condemned ? [{ put: key, value: blob }] : [] };
}

/** Where the bytes of a claim are: in this store, or at an origin, with the size that a manifest says. */
export interface Claimed {
  readonly origin?: Origin;
  readonly expectedSize?: number;
}

/**
 * A repository's claim to bytes of this store, which must be here, or to what an origin gives. One to bytes that are here is not given away for the other: who
 * pushed them would depend on the origin from then on. Only bytes that are here have a size: nobody has verified that of others.
 */
export async function claimTo(
  partition: Partition,
  repository: string,
  digest: Digest,
  { origin, expectedSize }: Claimed,
): Promise<{ readonly conditions: readonly Condition[]; readonly changes: readonly Change[] } | undefined> {
  const { name, metadata, clock } = partition;
  const key = recordKey.link(name, repository, digest);
  // First, since most bytes that are pushed are new.
  const wanted = origin ? undefined : await keptBlob(partition, digest);
  if (!origin && !wanted) return undefined;
  const own = await metadata.get(key);
  const kept = wanted ?? (own && !own.value.origin ? await keptBlob(partition, digest) : undefined);
  const leads = kept ? undefined : origin;
  const isSameWay = own !== undefined && isDeepStrictEqual(own.value.origin, leads);
  const claimed = kept ? { size: kept.blob.size } : atOrigin(origin, expectedSize ?? (isSameWay ? expectedSizeOf(own.value) : undefined));
  // What is claimed already is only used: a new version each time would let no manifest that relies on it be put.
  const isSame = isSameWay && expectedSizeOf(own.value) === expectedSizeOf(claimed);
  const changes = isSame ? useOf(key, own, clock.now(), true).changes : linkChanges(partition, repository, digest, claimed);
  const standing: Condition = own ? { key, is: "version", version: own.version } : { key, is: "absent" };
  return { conditions: [standing, ...(kept ? [kept.condition] : [])], changes: [...changes, ...(kept?.pardon ?? [])] };
}

type LinkValue = Pick<RecordTypes["link"], "size" | "expectedSize" | "origin">;

function atOrigin(origin: Origin | undefined, expectedSize: number | undefined): LinkValue {
  return { ...(expectedSize !== undefined && { expectedSize }), ...(origin && { origin }) };
}

/** What is known of the size of a claim's bytes: that of verified bytes, else what a manifest says. */
export function expectedSizeOf({ size, expectedSize }: LinkValue): number | undefined {
  return size ?? expectedSize;
}

/** A claim's blob as others see it. */
export function linkedBlob(digest: Digest, link: LinkValue): LinkedBlob {
  const size = expectedSizeOf(link);
  return { mediaType: mediaTypes.octetStream, digest, ...(size !== undefined && { size }) };
}

export function linkChanges({ name, clock }: Partition, repository: string, digest: Digest, claimed: LinkValue): Change[] {
  return [
    { put: recordKey.link(name, repository, digest), value: { ...claimed, linkedAt: clock.now() } },
    { put: recordKey.linkByDigest(name, digest, repository), value: {} },
  ];
}

export function tooManyChanges(digest: Digest): RegistryError {
  return new RegistryError("UNAVAILABLE", `too many changes to ${digest} at the same time: try again`, { retryAfter: 1 });
}
