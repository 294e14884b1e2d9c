import type { Descriptor, Platform } from "./descriptor.js";
import { type Digest, digestOf, isDigest } from "./digest.js";
import { isRegistryError, RegistryError } from "./errors.js";
import { isMediaType, mediaTypes } from "./media-types.js";
import { chargeTurn, unitsOfBytes } from "./turn-budget.js";

/** distribution-spec, "Pushing manifests": registries should take 4 MiB; more is refused with 413. */
export const manifestSizeLimit = 4 * 1024 * 1024;
/** More entries than any real image has; each entry costs a look-up when the manifest is pushed. */
const descriptorLimit = 10_000;
/** No manifest type nests deeper than a handful; what walks JSON by recursion would run out of stack on the millions of brackets that fit in 4 MiB. */
const depthLimit = 64;
/**
 * Keys of objects beside {@link specifiedKeys}: annotations and fields of the publisher's own. Real manifests have tens; each becomes a property of an object
 * whenever the manifest is read, and 300,000 of them fit in 4 MiB.
 */
const keyLimit = 20_000;
/** The fields that image-spec gives a descriptor and a platform. They are not counted with the others, so that an index of 10,000 children passes. */
const specifiedKeys: ReadonlySet<string> = new Set([
  "mediaType",
  "digest",
  "size",
  "urls",
  "annotations",
  "data",
  "artifactType",
  "platform",
  "architecture",
  "os",
  "os.version",
  "os.features",
  "variant",
]);
const longestSpecifiedKey = 12;
/** All of them in every descriptor of the longest index, and some more. */
const specifiedKeyLimit = 200_000;
/** Commas: the longest index with every field has a third of it. Numbers and strings in lists have no keys that could be counted. */
const separatorLimit = 400_000;
/** Objects and lists. The longest index has five for each child: the descriptor, its annotations, its URLs, its platform and the platform's features. */
const containerLimit = 60_000;

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
 * Reads a manifest that is to be stored: OCI image and index, Docker manifest and list, and the deprecated OCI artifact manifest.
 *
 * @param contentType the type it was sent with, parameters ignored; without one the body decides.
 * @throws RegistryError MANIFEST_INVALID for anything else: no JSON object, a type that contradicts another or the body's fields, bad descriptors, more than can
 *   be read at reasonable cost.
 */
export function parseManifest(bytes: Uint8Array, contentType?: string): Manifest {
  // By content, not by the buffer alone: its owner may have filled it with another manifest since.
  const digest = digestOf(bytes);
  const known = parsed.get(bytes);
  if (known && known.contentType === contentType && known.digest === digest) return known.manifest;
  const manifest = parsedManifest(bytes, contentType);
  parsed.set(bytes, { digest, contentType, manifest });
  return manifest;
}

/** The views, the aggregate, the store and the HTTP adapter each look at the manifest of one push. 4 MiB of JSON are read once. */
const parsed = new WeakMap<
  Uint8Array,
  { readonly digest: Digest; readonly contentType: string | undefined; readonly manifest: Manifest }
>();

function parsedManifest(bytes: Uint8Array, contentType: string | undefined): Manifest {
  const body = parseObject(bytes);
  const mediaType = agreedMediaType(body, contentType);
  const kind = kindOf(mediaType);
  for (const field of foreignFields[kind]) {
    if (!isEmpty(body[field])) throw invalid(`the manifest is sent as ${mediaType}, which has no ${field}`);
  }
  if (kind === "image" && isEmpty(body.config)) throw invalid("an image manifest needs a config");
  return manifestOf(body, mediaType);
}

/**
 * Reads a manifest that was stored or given by another registry, to follow its references. The body alone decides what it refers to: the type that it is given
 * with may be that of another kind, when it was stored before both had to agree or by a registry that does not compare them.
 *
 * @param statedType counts where the body neither declares a type nor shows another kind, as that of an empty index.
 * @throws RegistryError MANIFEST_INVALID when the bytes are no manifest.
 */
export function followManifest(bytes: Uint8Array, statedType: string): Manifest {
  const body = parseObject(bytes);
  return manifestOf(body, ownType(body, statedType));
}

/** The type that a body can have: the one it declares, else the stated one, else what its fields show. */
function ownType(body: Record<string, unknown>, statedType: string): string {
  const kind = kindShown(body);
  const declared = typeof body.mediaType === "string" ? body.mediaType.toLowerCase() : "";
  const fits = (type: string) => knownTypes.has(type) && (kind === undefined || kindOf(type) === kind);
  return [declared, statedType].find(fits) ?? typeOfKind[kind ?? "image"];
}

/** Whether a manifest may be stored as this type. A record of an earlier version of this library may hold it as one that it cannot have. */
export function canHaveType(bytes: Uint8Array, mediaType: string): boolean {
  try {
    parsedManifest(bytes, mediaType);
    return true;
  } catch {
    return false;
  }
}

/** Which kinds of manifest there are: each has fields that the others must not have (image-spec, CVE-2021-41190). */
type ManifestKind = "image" | "index" | "artifact";

/**
 * What a manifest of a kind has none of: otherwise clients that look at different fields would see different images in the same bytes. An absent or null field
 * and an empty list count as none, since programs in Go write empty lists as null.
 */
const foreignFields: Readonly<Record<ManifestKind, readonly string[]>> = {
  image: ["manifests"],
  index: ["config", "layers", "fsLayers"],
  artifact: ["manifests", "config", "layers", "fsLayers"],
};

const typeOfKind: Readonly<Record<ManifestKind, string>> = {
  image: mediaTypes.ociManifest,
  index: mediaTypes.ociIndex,
  artifact: mediaTypes.ociArtifact,
};

function kindOf(mediaType: string): ManifestKind {
  if (mediaType === mediaTypes.ociIndex || mediaType === mediaTypes.dockerList) return "index";
  return mediaType === mediaTypes.ociArtifact ? "artifact" : "image";
}

/** What the body is by its fields. */
function kindShown(body: Record<string, unknown>): ManifestKind | undefined {
  if (!isEmpty(body.config) || !isEmpty(body.layers)) return "image";
  if (!isEmpty(body.manifests)) return "index";
  return isEmpty(body.blobs) ? undefined : "artifact";
}

function isEmpty(field: unknown): boolean {
  return field === undefined || field === null || (Array.isArray(field) && field.length === 0);
}

function manifestOf(body: Record<string, unknown>, mediaType: string): Manifest {
  const kind = kindOf(mediaType);
  const config = isEmpty(body.config) ? undefined : readDescriptor(body.config, "config");
  const subject = body.subject === undefined || body.subject === null ? undefined : readDescriptor(body.subject, "subject");
  const artifactType = optionalText(body, "artifactType") ?? config?.mediaType;
  const annotations = readAnnotations(body.annotations, "annotations");
  return {
    mediaType,
    kind: kind === "index" ? "index" : "image",
    layers: readDescriptors(body, kind === "artifact" ? "blobs" : "layers"),
    children: readDescriptors(body, "manifests"),
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
  if (bytes.byteLength > manifestSizeLimit) {
    throw new RegistryError("MANIFEST_INVALID", `the manifest is larger than ${manifestSizeLimit} bytes`, { status: 413 });
  }
  let value: unknown;
  // Charged here, so that a loop over many manifests in memory leaves room for requests, too.
  chargeTurn(unitsOfBytes(bytes.byteLength));
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    checkShape(bytes);
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

/**
 * Bounds what reading the JSON costs before it is read: how deep it nests, how many keys it has, and how many objects and lists. Whether the text is valid is for
 * the parser to say.
 */
function checkShape(bytes: Uint8Array): void {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let depth = 0;
  let containers = 0;
  let keys = 0;
  let specified = 0;
  let separators = 0;
  // The last string that ended: a key, when a colon follows.
  let start = 0;
  let end = 0;
  for (let at = 0; at < text.length; at++) {
    const byte = text[at];
    if (byte === 0x22) {
      start = at + 1;
      for (at++; at < text.length && text[at] !== 0x22; at++) if (text[at] === 0x5c) at++;
      end = at;
    } else if (byte === 0x3a) {
      if (end - start <= longestSpecifiedKey && specifiedKeys.has(text.toString("latin1", start, end))) specified++;
      else keys++;
      if (keys > keyLimit || specified > specifiedKeyLimit) {
        throw invalid(`the manifest has more than ${keyLimit} keys beside those of descriptors and platforms: put the data into a blob`);
      }
    } else if (byte === 0x2c) {
      if (++separators > separatorLimit) throw invalid(`the manifest has more than ${separatorLimit} values: put the data into a blob`);
    } else if (byte === 0x7b || byte === 0x5b) {
      if (++depth > depthLimit) throw invalid(`the manifest nests deeper than ${depthLimit} levels`);
      if (++containers > containerLimit) throw invalid(`the manifest has more than ${containerLimit} objects and lists`);
    } else if (byte === 0x7d || byte === 0x5d) depth--;
  }
}

const knownTypes: ReadonlySet<string> = new Set([
  mediaTypes.ociManifest,
  mediaTypes.ociIndex,
  mediaTypes.dockerManifest,
  mediaTypes.dockerList,
  mediaTypes.ociArtifact,
]);

/** Whether it is one of the types that this library stores manifests as. */
export function isManifestType(mediaType: string): boolean {
  return knownTypes.has(mediaType);
}

function agreedMediaType(body: Record<string, unknown>, contentType: string | undefined): string {
  const declared = optionalText(body, "mediaType");
  // Media types are compared without regard to case (RFC 9110 section 8.3.1); what is stored is the usual spelling.
  const sent = contentType?.split(";", 1)[0]?.trim().toLowerCase();
  if (sent && declared && sent !== declared.toLowerCase()) {
    throw invalid(`the Content-Type is ${JSON.stringify(sent)} but the manifest's mediaType is ${JSON.stringify(declared)}`);
  }
  // An index without children may write its list as null.
  const isBareIndex = "manifests" in body && isEmpty(body.config);
  const mediaType = sent || declared?.toLowerCase() || typeOfKind[kindShown(body) ?? (isBareIndex ? "index" : "image")];
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
  for (const [key, text] of Object.entries(value)) {
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
