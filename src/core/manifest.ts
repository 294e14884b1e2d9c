import type { Descriptor, Platform } from "./descriptor.js";
import { isDigest } from "./digest.js";
import { isRegistryError, RegistryError } from "./errors.js";
import { isMediaType, mediaTypes } from "./media-types.js";

/** distribution-spec, "Pushing manifests": registries should take 4 MiB; more is refused with 413. */
export const manifestSizeLimit = 4 * 1024 * 1024;
/** More entries than any real image has; each entry costs a look-up when the manifest is pushed. */
const descriptorLimit = 10_000;
/** No manifest type nests deeper than a handful; what walks JSON by recursion would run out of stack on the millions of brackets that fit in 4 MiB. */
const depthLimit = 64;
/** Each becomes an object's property, also in every answer about referrers. More than the 4 MiB hold of any sensible size. */
const annotationLimit = 100_000;

/** What a manifest says, as far as a registry needs it. The stored bytes are never changed. */
export interface Manifest {
  readonly mediaType: string;
  /** An image has config and layers; an index has children. An artifact manifest counts as an image without config. */
  readonly kind: "image" | "index";
  readonly config?: Descriptor;
  readonly layers: readonly Descriptor[];
  readonly children: readonly Descriptor[];
  readonly subject?: Descriptor;
  readonly artifactType?: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

/**
 * Reads a manifest: OCI image and index, Docker manifest and list, and the deprecated OCI artifact manifest.
 *
 * @param contentType the type it was sent with, parameters ignored; without one the body decides.
 * @throws RegistryError MANIFEST_INVALID for anything else: no JSON object, types that contradict each other, bad descriptors.
 */
export function parseManifest(bytes: Uint8Array, contentType?: string): Manifest {
  if (bytes.byteLength > manifestSizeLimit) {
    throw new RegistryError("MANIFEST_INVALID", `the manifest is larger than ${manifestSizeLimit} bytes`, { status: 413 });
  }
  const body = parseObject(bytes);
  const mediaType = agreedMediaType(body, contentType);
  const isIndex = mediaType === mediaTypes.ociIndex || mediaType === mediaTypes.dockerList;
  const layersField = mediaType === mediaTypes.ociArtifact ? "blobs" : "layers";
  const config = !isIndex && body.config !== undefined ? readDescriptor(body.config, "config") : undefined;
  if (config === undefined && (mediaType === mediaTypes.ociManifest || mediaType === mediaTypes.dockerManifest)) {
    throw invalid("an image manifest needs a config");
  }
  const subject = body.subject === undefined || body.subject === null ? undefined : readDescriptor(body.subject, "subject");
  const artifactType = optionalText(body, "artifactType") ?? (isIndex ? undefined : config?.mediaType);
  const annotations = readAnnotations(body.annotations, "annotations");
  return {
    mediaType,
    kind: isIndex ? "index" : "image",
    layers: isIndex ? [] : readDescriptors(body, layersField),
    children: isIndex ? readDescriptors(body, "manifests") : [],
    ...(config && { config }),
    ...(subject && { subject }),
    ...(artifactType && { artifactType }),
    ...(annotations && { annotations }),
  };
}

/** The type a manifest's bytes declare or show, or `undefined` when they are no manifest. */
export function detectMediaType(bytes: Uint8Array): string | undefined {
  try {
    return parseManifest(bytes).mediaType;
  } catch {
    return undefined;
  }
}

function parseObject(bytes: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (depthOf(bytes) > depthLimit) throw invalid(`the manifest nests deeper than ${depthLimit} levels`);
    value = JSON.parse(text);
  } catch (cause) {
    if (isRegistryError(cause)) throw cause;
    throw new RegistryError("MANIFEST_INVALID", "the manifest is not valid JSON in UTF-8", { cause });
  }
  if (!isObject(value)) throw invalid("a manifest is a JSON object");
  const { schemaVersion } = value;
  if (schemaVersion !== undefined && schemaVersion !== 2)
    throw invalid("the manifest's schemaVersion is not 2: this registry takes no other");
  return value;
}

/** How deep brackets nest outside of strings, whether or not the text is valid. */
function depthOf(bytes: Uint8Array): number {
  let depth = 0;
  let deepest = 0;
  let quoted = false;
  for (let i = 0; i < bytes.byteLength; i++) {
    const byte = bytes[i];
    if (quoted) {
      if (byte === 0x5c) i++;
      else if (byte === 0x22) quoted = false;
    } else if (byte === 0x22) quoted = true;
    else if (byte === 0x7b || byte === 0x5b) deepest = Math.max(deepest, ++depth);
    else if (byte === 0x7d || byte === 0x5d) depth--;
  }
  return deepest;
}

const knownTypes: ReadonlySet<string> = new Set([
  mediaTypes.ociManifest,
  mediaTypes.ociIndex,
  mediaTypes.dockerManifest,
  mediaTypes.dockerList,
  mediaTypes.ociArtifact,
]);

function agreedMediaType(body: Record<string, unknown>, contentType: string | undefined): string {
  const declared = optionalText(body, "mediaType");
  // Media types are compared without regard to case (RFC 9110 section 8.3.1); what is stored is the usual spelling.
  const sent = contentType?.split(";", 1)[0]?.trim().toLowerCase();
  if (sent && declared && sent !== declared.toLowerCase()) {
    throw invalid(`the Content-Type is ${JSON.stringify(sent)} but the manifest's mediaType is ${JSON.stringify(declared)}`);
  }
  const mediaType = sent || declared?.toLowerCase() || (Array.isArray(body.manifests) ? mediaTypes.ociIndex : mediaTypes.ociManifest);
  if (!knownTypes.has(mediaType)) {
    throw invalid(`${JSON.stringify(mediaType.slice(0, 200))} is not a manifest type this registry takes: ${[...knownTypes].join(", ")}`);
  }
  return mediaType;
}

function readDescriptors(body: Record<string, unknown>, field: string): Descriptor[] {
  const list = body[field] ?? [];
  if (!Array.isArray(list)) throw invalid(`${field} must be a list`);
  if (list.length > descriptorLimit) throw invalid(`${field} has more than ${descriptorLimit} entries`);
  return list.map((entry, index) => readDescriptor(entry, `${field}[${index}]`));
}

function readDescriptor(value: unknown, where: string): Descriptor {
  if (!isObject(value)) throw invalid(`${where} must be a descriptor`);
  const { mediaType, digest, size, platform } = value;
  if (typeof mediaType !== "string" || !isMediaType(mediaType)) throw invalid(`${where}.mediaType is not a media type`);
  if (typeof digest !== "string" || !isDigest(digest)) throw invalid(`${where}.digest is not a sha256 or sha512 digest`);
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) throw invalid(`${where}.size is not a whole number of bytes`);
  const artifactType = optionalText(value, "artifactType");
  const annotations = readAnnotations(value.annotations, `${where}.annotations`);
  return {
    mediaType,
    digest,
    size,
    ...(artifactType && { artifactType }),
    ...(annotations && { annotations }),
    ...(isObject(platform) && { platform: readPlatform(platform) }),
  };
}

/** Only what image-spec names, since descriptors are given out again in listings. */
function readPlatform(value: Record<string, unknown>): Platform {
  const text = (field: string) => (typeof value[field] === "string" ? { [field]: value[field] } : {});
  const list = (field: string) => {
    const entries = value[field];
    return Array.isArray(entries) && entries.every((entry) => typeof entry === "string") ? { [field]: entries } : {};
  };
  const { architecture, os } = value;
  return {
    architecture: typeof architecture === "string" ? architecture : "",
    os: typeof os === "string" ? os : "",
    ...text("os.version"),
    ...text("variant"),
    ...list("os.features"),
  };
}

function readAnnotations(value: unknown, where: string): Record<string, string> | undefined {
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) throw invalid(`${where} must be an object`);
  const entries = Object.entries(value);
  if (entries.length > annotationLimit) throw invalid(`${where} has more than ${annotationLimit} entries`);
  for (const [key, text] of entries) {
    if (typeof text !== "string") throw invalid(`${where}[${JSON.stringify(key)}] must be text`);
  }
  return value as Record<string, string>;
}

function optionalText(value: Record<string, unknown>, field: string): string | undefined {
  const text = value[field];
  if (text === undefined || text === null || text === "") return undefined;
  if (typeof text !== "string") throw invalid(`${field} must be text`);
  if (!isMediaType(text)) throw invalid(`${field} ${JSON.stringify(text.slice(0, 200))} is not a media type`);
  return text;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(message: string): RegistryError {
  return new RegistryError("MANIFEST_INVALID", message);
}
