import type { Descriptor } from "../core/descriptor.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import { indexOf, nameAnnotation } from "./layout-entries.js";
import { type LayoutSource, smallFile } from "./layout-source.js";

/** As many as a manifest may list. */
export const imageLimit = 10_000;

/** The `index.json` of a new layout. @throws RegistryError MANIFEST_INVALID when it would be larger than readers take. */
export function newIndex(entries: readonly Descriptor[]): Uint8Array {
  return indexBytes({ schemaVersion: 2, mediaType: mediaTypes.ociIndex }, entries);
}

/**
 * The `index.json` of a layout with more images: an entry of the same name is replaced, every other one stays as it is, with all that its author wrote.
 * @throws RegistryError MANIFEST_INVALID when it would be larger than readers take, or is damaged.
 */
export async function mergedIndex(layout: LayoutSource, entries: readonly Descriptor[]): Promise<Uint8Array> {
  const known = await indexOf(layout);
  const bytes = known && (await smallFile(layout, "index.json", manifestSizeLimit));
  if (!known || !bytes) return newIndex(entries);
  const content: { manifests?: readonly unknown[] } = JSON.parse(Buffer.from(bytes).toString());
  const replaced = new Set(entries.map(keyOf));
  const kept = content.manifests?.filter((_, index) => {
    const entry = known[index];
    return entry !== undefined && !replaced.has(keyOf(entry));
  });
  return indexBytes(content, [...(kept ?? []), ...entries]);
}

/** An image without a name is the same as another one of its digest without a name. */
function keyOf({ digest, annotations }: Descriptor): string {
  const name = annotations?.[nameAnnotation];
  return name === undefined ? digest : `name ${name}`;
}

function indexBytes(content: object, manifests: readonly unknown[]): Uint8Array {
  const bytes = Buffer.from(JSON.stringify({ ...content, manifests }));
  try {
    parseManifest(bytes, mediaTypes.ociIndex);
    return bytes;
  } catch (cause) {
    if (!isRegistryError(cause)) throw cause;
    throw new RegistryError(
      "MANIFEST_INVALID",
      `so many images do not fit into one layout, export some of them by references: ${cause.message}`,
      {
        cause,
      },
    );
  }
}
