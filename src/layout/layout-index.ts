import type { Descriptor } from "../core/descriptor.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import { isRepositoryName, isTag } from "../core/name.js";
import { type LayoutSource, smallFile } from "./layout-source.js";

/**
 * The files of a layout that say what it is and has: `index.json`, which lists images by name, and `oci-layout`, the version. {@link layoutEntries} reads what an
 * import sees; {@link newIndex} and {@link mergedIndex} make what an export writes.
 */

/** As many as a manifest may list. */
export const imageLimit = 10_000;

/** image-spec, "Pre-Defined Annotation Keys": what a layout calls an image. */
export const nameAnnotation = "org.opencontainers.image.ref.name";
/** Where containerd and docker write the whole name. */
const wholeNameAnnotation = "io.containerd.image.name";

/** The version of the specification's layouts; in the file `oci-layout`. */
export const layoutVersion = "1.0.0";

/** An image in a layout's `index.json`. */
export interface LayoutEntry {
  readonly descriptor: Descriptor;
  /** As it is written: `1.0`, or `docker.io/library/app:1.0` by docker, containerd and podman. */
  readonly name?: string;
  /** The repository of a whole name, without its host: `library/app`. */
  readonly repository?: string;
  /** The tag in its name. Without one it is imported by its digest. */
  readonly tag?: string;
}

/**
 * What a layout's `index.json` lists. Other things than images and artifacts, which are allowed there, are left out.
 * @throws RegistryError UNSUPPORTED when it is no OCI layout, MANIFEST_INVALID when it is a malformed one.
 */
export async function layoutEntries(source: LayoutSource): Promise<LayoutEntry[]> {
  const index = await layoutIndexOf(source);
  if (index && index.length > 0) return index.filter(({ mediaType }) => isLayoutManifestType(mediaType)).map(entryOf);
  // Version 25.0 writes an empty index for images that are saved by digest.
  if ((await source.size("manifest.json")) !== undefined) {
    throw new RegistryError(
      "UNSUPPORTED",
      `${source.path} is a docker archive without an index of its images, as "podman save" and older versions of "docker save" write: convert it with "skopeo copy docker-archive:<file> oci-archive:<new file>:<tag>"`,
    );
  }
  if (index) return [];
  throw new RegistryError("UNSUPPORTED", `${source.path} is no OCI layout: it has no index.json`);
}

/** The descriptors in `index.json`; `undefined` where there is none. */
async function layoutIndexOf(source: LayoutSource): Promise<readonly Descriptor[] | undefined> {
  const bytes = await smallFile(source, "index.json", manifestSizeLimit);
  if (!bytes) return undefined;
  await checkVersion(source);
  try {
    return parseManifest(bytes, mediaTypes.ociIndex).children;
  } catch (error) {
    if (isRegistryError(error)) throw new RegistryError(error.code, `index.json in ${source.path}: ${error.message}`, { cause: error });
    throw error;
  }
}

/** @throws RegistryError UNSUPPORTED when the file `oci-layout` is missing, or names another version. */
export async function checkVersion(source: LayoutSource): Promise<void> {
  const bytes = await smallFile(source, "oci-layout", 64 * 1024);
  if (!bytes) throw new RegistryError("UNSUPPORTED", `${source.path} is no OCI layout: it has no file oci-layout`);
  let version: unknown;
  try {
    const content: unknown = JSON.parse(Buffer.from(bytes).toString());
    if (typeof content === "object" && content !== null && "imageLayoutVersion" in content) version = content.imageLayoutVersion;
  } catch {
    // Refused below.
  }
  if (version !== layoutVersion) {
    const named = typeof version === "string" ? `version ${JSON.stringify(version.slice(0, 40))}` : "no version";
    throw new RegistryError("UNSUPPORTED", `oci-layout in ${source.path} names ${named}: only ${layoutVersion} is known`);
  }
}

/** The `index.json` of a new layout. @throws RegistryError MANIFEST_INVALID when it would be larger than readers take. */
export function newIndex(entries: readonly Descriptor[]): Uint8Array {
  return indexBytes({ schemaVersion: 2, mediaType: mediaTypes.ociIndex }, entries);
}

/**
 * The `index.json` of a layout with more images: an entry of the same name is replaced, every other one stays as it is, with all that its author wrote.
 * @throws RegistryError MANIFEST_INVALID when it would be larger than readers take, or is damaged.
 */
export async function mergedIndex(layout: LayoutSource, entries: readonly Descriptor[]): Promise<Uint8Array> {
  const known = await layoutIndexOf(layout);
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

/** BuildKit's older cache layout lists blobs as children of an index. */
export function isLayoutManifestType(mediaType: string): boolean {
  const { octetStream: _, ...manifests } = mediaTypes;
  return Object.values<string>(manifests).includes(mediaType.toLowerCase());
}

/** The whole name that containerd and docker write comes first where it says more. */
function entryOf(descriptor: Descriptor): LayoutEntry {
  const short = descriptor.annotations?.[nameAnnotation];
  const whole = descriptor.annotations?.[wholeNameAnnotation];
  const parts = { ...(short !== undefined && nameParts(short)), ...(whole !== undefined && nameParts(whole)) };
  const name = whole ?? short;
  const tag = short !== undefined && isTag(short) ? short : parts.tag;
  return {
    descriptor,
    ...(name !== undefined && { name }),
    ...(parts.repository !== undefined && { repository: parts.repository }),
    ...(tag !== undefined && { tag }),
  };
}

/** `host/repository:tag@digest`, in which only the repository must be there. A name that is a tag already says nothing else. */
function nameParts(name: string): { readonly repository?: string; readonly tag?: string } {
  if (isTag(name)) return {};
  const [unpinned = ""] = name.split("@", 1);
  const colon = unpinned.lastIndexOf(":");
  const hasTag = colon > unpinned.lastIndexOf("/");
  const tag = hasTag ? unpinned.slice(colon + 1) : "";
  const path = (hasTag ? unpinned.slice(0, colon) : unpinned).split("/");
  const [first = ""] = path;
  if (path.length > 1 && (first === "localhost" || /[.:]/.test(first))) path.shift();
  const repository = path.join("/");
  return { ...(isRepositoryName(repository) && { repository }), ...(isTag(tag) && { tag }) };
}
