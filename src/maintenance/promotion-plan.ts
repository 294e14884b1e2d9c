import type { Descriptor, Platform } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { isThere, orThrow } from "../core/lookup.js";
import { followManifest } from "../core/manifest.js";
import { isNonDistributable } from "../core/media-types.js";
import { allPages } from "../core/page.js";
import { isOneOf, namesPlatform } from "../core/platform.js";
import { requiredReferences } from "../core/references.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { inParallel } from "./in-parallel.js";
import { mostNamed, someOf } from "./some-of.js";

/** Everything that goes with some tags, as the source has it at one moment. */
export interface PromotionPlan {
  readonly tags: readonly { readonly tag: string; readonly descriptor: Descriptor }[];
  /** Children before their indexes, referrers after what they refer to. The tags' own manifests need not be among them. */
  readonly manifests: readonly Descriptor[];
  /** Those of the manifests that go along for what they refer to. */
  readonly referrers: readonly Descriptor[];
  readonly blobs: readonly Descriptor[];
  /** An index goes without some of its children. */
  readonly sparse: boolean;
}

export interface PlanOptions {
  readonly tags: readonly string[];
  readonly referrers: boolean;
  readonly platforms?: readonly string[];
  /** Layers whose licence forbids their distribution go along where the source has them. Default: false. */
  readonly nonDistributable?: boolean;
  readonly concurrency: number;
  readonly call: CallOptions;
}

/** Referrers may have referrers (a signature of an attestation); a chain made on purpose must not run long. */
export const depthLimit = 8;

/**
 * Finds out what has to go along, and that the source has all of it.
 * @throws RegistryError MANIFEST_UNKNOWN for a tag that the source does not have, MANIFEST_BLOB_UNKNOWN for references that it does not have, or why it
 *   could not be asked.
 */
export async function planPromotion(from: Registry, repository: string, o: PlanOptions): Promise<PromotionPlan> {
  const { call } = o;
  const manifests = new Map<Digest, Descriptor>();
  const referrers = new Map<Digest, Descriptor>();
  const blobs = new Map<Digest, Descriptor>();
  const seen = new Set<Digest>();
  const missing: Descriptor[] = [];
  let sparse = false;

  const follow = async (content: ManifestContent, depth: number): Promise<void> => {
    const { digest, mediaType } = content.descriptor;
    if (seen.has(digest)) return;
    seen.add(digest);
    call.signal?.throwIfAborted();
    const manifest = followManifest(content.bytes, mediaType);
    const needed = requiredReferences(manifest);
    for (const blob of needed.blobs) blobs.set(blob.digest, blob);
    if (o.nonDistributable) {
      for (const layer of manifest.layers)
        if (isNonDistributable(layer.mediaType) && !blobs.has(layer.digest)) blobs.set(layer.digest, layer);
    }
    for (const child of needed.children) {
      if (!isWanted(child.platform, o.platforms)) sparse = true;
      else await followReference(child, depth);
    }
    if (!o.referrers || depth >= depthLimit) return;
    const list = allPages(async (page) => orThrow(await from.listReferrers(repository, digest, page, call)));
    for await (const referrer of list) {
      call.signal?.throwIfAborted();
      await followReference(referrer, depth + 1);
      const { mediaType, digest, size } = referrer;
      referrers.set(digest, { mediaType, digest, size });
    }
  };
  const followReference = async (descriptor: Descriptor, depth: number): Promise<void> => {
    if (seen.has(descriptor.digest)) return;
    call.signal?.throwIfAborted();
    const lookup = await from.getManifest(repository, descriptor.digest, call);
    if (isThere(lookup)) {
      await follow(lookup.value, depth);
      manifests.set(descriptor.digest, lookup.value.descriptor);
    }
    // BuildKit's older cache layout lists blobs as children of an index.
    else blobs.set(descriptor.digest, descriptor);
  };

  const tags: { tag: string; descriptor: Descriptor }[] = [];
  for (const tag of o.tags) {
    call.signal?.throwIfAborted();
    const lookup = await from.getManifest(repository, tag, { ...call, refresh: true });
    if (lookup.kind === "absent") throw new RegistryError("MANIFEST_UNKNOWN", `${repository} has no ${tag} at the source`);
    const content = orThrow(lookup);
    tags.push({ tag, descriptor: content.descriptor });
    await follow(content, 0);
  }
  await inParallel([...blobs.values()], { concurrency: o.concurrency, signal: call.signal }, async (blob, signal) => {
    if (isThere(await from.resolveBlob(repository, blob.digest, { ...call, signal }))) return;
    if (isNonDistributable(blob.mediaType)) blobs.delete(blob.digest);
    else missing.push(blob);
  });
  if (missing.length > 0) throw incomplete(repository, missing);
  return { tags, manifests: [...manifests.values()], referrers: [...referrers.values()], blobs: [...blobs.values()], sparse };
}

function incomplete(repository: string, missing: readonly Descriptor[]): RegistryError {
  const digests = missing.map(({ digest }) => digest);
  return new RegistryError("MANIFEST_BLOB_UNKNOWN", `${repository} is not complete at the source: it lacks ${someOf(digests)}`, {
    detail: { missing: digests.slice(0, mostNamed) },
  });
}

/** A child without a platform belongs to all: an attestation, or a nested index. */
function isWanted(platform: Platform | undefined, wanted: readonly string[] | undefined): boolean {
  return !wanted || !namesPlatform(platform) || isOneOf(platform, wanted);
}
