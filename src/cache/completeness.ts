import type { Descriptor } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import { followManifest } from "../core/manifest.js";
import { requiredReferences } from "../core/references.js";
import type { ManifestContent, Registry } from "../core/registry.js";
import { childrenFor, isBlob, lacks } from "./children.js";
import { backgroundPriority } from "./source-call.js";

/** What of an image is stored here. */
export interface Completeness {
  readonly complete: boolean;
  readonly missing: readonly Descriptor[];
}

/**
 * Whether an image's manifest, config and layers are all stored; for an index those of its platforms.
 *
 * @throws RegistryError MANIFEST_UNKNOWN when the manifest is not here, or names no image for these platforms; the signal's reason.
 */
export async function completeness(
  store: Registry,
  repository: string,
  reference: string,
  platforms: readonly string[] | undefined,
  signal: AbortSignal | undefined,
): Promise<Completeness> {
  const lookup = await store.getManifest(repository, reference);
  if (lookup.kind !== "found") throw new RegistryError("MANIFEST_UNKNOWN", `${repository} has no ${reference} stored here`);
  const missing: Descriptor[] = [];
  const seen = new Set<string>();
  const check = async (blob: Descriptor): Promise<void> => {
    signal?.throwIfAborted();
    if ((await store.resolveBlob(repository, blob.digest, backgroundPriority)).kind !== "found") missing.push(blob);
  };
  const walk = async ({ bytes, descriptor }: ManifestContent, top: boolean): Promise<void> => {
    const manifest = followManifest(bytes, descriptor.mediaType);
    if (top && lacks(manifest, platforms)) throw noSuchPlatform(repository, reference, platforms);
    for (const blob of requiredReferences(manifest).blobs) await check(blob);
    for (const child of childrenFor(manifest, platforms)) {
      if (seen.has(child.digest)) continue;
      seen.add(child.digest);
      if (isBlob(child)) {
        await check(child);
        continue;
      }
      signal?.throwIfAborted();
      const below = await store.getManifest(repository, child.digest);
      if (below.kind === "found") await walk(below.value, false);
      else missing.push(child);
    }
  };
  await walk(lookup.value, true);
  return { complete: missing.length === 0, missing };
}

/** What to throw for an index that has no image for these platforms. */
export function noSuchPlatform(repository: string, reference: string, platforms: readonly string[] = []): RegistryError {
  return new RegistryError("MANIFEST_UNKNOWN", `${repository} has no ${reference} for ${platforms.join(" or ")}`);
}
