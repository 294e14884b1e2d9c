import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, digestOf } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { type Manifest, manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { blobFile, type LayoutSource, smallFile } from "./layout-source.js";

/**
 * Whether a layout has what a descriptor names, going by its size.
 * @throws RegistryError SIZE_INVALID when it has another size than the descriptor says.
 */
export async function hasContent(source: LayoutSource, { digest, size }: Descriptor): Promise<boolean> {
  const there = await source.size(blobFile(digest));
  if (there === undefined || there === size) return there !== undefined;
  throw new RegistryError("SIZE_INVALID", `${blobFile(digest)} in ${source.path} has ${there} bytes, and should have ${size}`);
}

/**
 * A manifest of a layout, checked.
 * @throws RegistryError DIGEST_INVALID when the bytes are others, MANIFEST_INVALID when they are no manifest.
 */
export async function manifestIn(source: LayoutSource, descriptor: Descriptor): Promise<{ bytes: Uint8Array; manifest: Manifest }> {
  const file = blobFile(descriptor.digest);
  const bytes = await smallFile(source, file, manifestSizeLimit);
  if (!bytes) throw new RegistryError("MANIFEST_UNKNOWN", `${file} is not in ${source.path} any more`);
  if (digestOf(bytes, algorithmOf(descriptor.digest)) !== descriptor.digest) {
    throw new RegistryError("DIGEST_INVALID", `${file} in ${source.path} holds other bytes than its name says`);
  }
  try {
    return { bytes, manifest: parseManifest(bytes, descriptor.mediaType) };
  } catch (cause) {
    if (!isRegistryError(cause)) throw cause;
    throw new RegistryError(cause.code, `${file} in ${source.path}: ${cause.message}`, { cause, status: cause.status });
  }
}
