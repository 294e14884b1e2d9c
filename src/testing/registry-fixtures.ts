import { fail, ok } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { contentChunks } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, digestOf } from "../core/digest.js";
import type { Lookup } from "../core/lookup.js";
import { mediaTypes } from "../core/media-types.js";
import type { Page } from "../core/page.js";
import type { BlobContent, Registry } from "../core/registry.js";
import { chunked } from "./blob-fixtures.js";

/** What a case is given. */
export interface RegistryOnTest {
  readonly registry: Registry;
  /** Content put in here is what `registry` shows. */
  readonly seed: Registry;
  /** A repository's name where the registry has it. */
  at(repository: string): string;
}

export type RegistryCase = (name: string, run: (on: RegistryOnTest) => Promise<void>) => void;

/** An image that is not pushed anywhere yet. */
export interface TestImage {
  readonly bytes: Uint8Array;
  readonly mediaType: string;
  readonly digest: Digest;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
  readonly blobs: ReadonlyMap<Digest, Uint8Array>;
}

export const layerType = "application/vnd.oci.image.layer.v1.tar";

export function describe(bytes: Uint8Array, mediaType: string): Descriptor {
  return { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
}

/** @param more further fields of the manifest, as `subject`, `artifactType` and `annotations`. */
export function imageOf(o: { readonly layers?: readonly number[]; readonly mediaType?: string } & Record<string, unknown> = {}): TestImage {
  const { layers: sizes = [1000, 3000], mediaType = mediaTypes.ociManifest, ...more } = o;
  const blobs = new Map<Digest, Uint8Array>();
  const add = (bytes: Uint8Array, type: string): Descriptor => {
    const descriptor = describe(bytes, type);
    blobs.set(descriptor.digest, bytes);
    return descriptor;
  };
  const settings = { architecture: "amd64", os: "linux", id: randomBytes(8).toString("hex") };
  const config = add(Buffer.from(JSON.stringify(settings)), "application/vnd.oci.image.config.v1+json");
  const layers = sizes.map((size) => add(randomBytes(size), layerType));
  // Indented and with a line break at the end: whoever writes it anew has other bytes.
  const bytes = Buffer.from(`${JSON.stringify({ schemaVersion: 2, mediaType, config, layers, ...more }, null, 3)}\n`);
  return { bytes, mediaType, digest: digestOf(bytes), config, layers, blobs };
}

export function fixtureIndex(
  children: readonly TestImage[],
  mediaType: string = mediaTypes.ociIndex,
): { bytes: Uint8Array; digest: Digest } {
  const manifests = children.map(({ bytes, mediaType: type, digest }, index) => {
    const platform = { os: "linux", architecture: `cpu${index}` };
    return { mediaType: type, digest, size: bytes.byteLength, platform };
  });
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, manifests }));
  return { bytes, digest: digestOf(bytes) };
}

export async function pushFixtureBlob(registry: Registry, repository: string, bytes: Uint8Array): Promise<Descriptor> {
  return registry.putBlob(repository, { digest: digestOf(bytes), size: bytes.byteLength }, chunked(bytes, 65_536));
}

export async function pushBlobs(registry: Registry, repository: string, image: TestImage): Promise<void> {
  for (const bytes of image.blobs.values()) await pushFixtureBlob(registry, repository, bytes);
}

/** @param reference a tag; absent: the digest. */
export async function pushImage(registry: Registry, repository: string, reference?: string, image = imageOf()): Promise<TestImage> {
  await pushBlobs(registry, repository, image);
  await registry.putManifest(repository, reference ?? image.digest, { bytes: image.bytes });
  return image;
}

/** The value of an answer that must be there. */
export function valueFrom<T>(lookup: Lookup<T>): T {
  if (lookup.kind !== "found") {
    const error = "error" in lookup && lookup.error ? `: ${lookup.error.code}: ${lookup.error.message}` : "";
    fail(`an answer was expected, it is ${lookup.kind}${error}`);
  }
  return lookup.value;
}

/** As `valueFrom`, for content: it says who gave it. */
export function servedValue<T>(lookup: Lookup<T>): T {
  const value = valueFrom(lookup);
  ok(lookup.kind === "found" && lookup.served.member.length > 0, "served.member does not say who answered");
  return value;
}

/** What a listing has; of a repository that is not there, nothing. */
export function itemsOf<T>(lookup: Lookup<Page<T>>): readonly T[] {
  return lookup.kind === "absent" ? [] : valueFrom(lookup).items;
}

export async function blobBytes(lookup: Lookup<BlobContent>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of contentChunks(servedValue(lookup).content)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** A descriptor as far as every registry tells it. */
export function fixtureNames({ mediaType, digest, size }: Descriptor): Descriptor {
  return { mediaType, digest, size };
}

/** A source that nobody may read: the call is to be refused before. */
export async function* untouched(): AsyncGenerator<Uint8Array> {
  yield fail("the source was read, though the call had to be refused before");
}

/** What a registry can do. What is declared absent is tested as well: to be refused with the right code, and to change nothing. */
export interface RegistryCapabilities {
  /** Takes manifests and blobs. Default: true. False: UNSUPPORTED or DENIED, before a source is read. */
  readonly push: boolean;
  /** Deletes tags, manifests and blobs. Default: true. False: UNSUPPORTED or DENIED. */
  readonly delete: boolean;
  /** Mounts blobs of its own repositories, with a source and without. Default: true. False: answers `undefined`. */
  readonly mount: boolean;
  /** Has upload sessions. Default: true. False: UNSUPPORTED. */
  readonly uploads: boolean;
  /** Finds sessions again by their id. Default: true. False: BLOB_UPLOAD_UNKNOWN or UNSUPPORTED. */
  readonly resume: boolean;
  /** Lists referrers. Default: true. False: an empty page, absent, or a refusal as a value. */
  readonly referrers: boolean;
  /** Lists repositories. Default: true. False: an empty page, or a refusal as a value. */
  readonly catalog: boolean;
  /** Answers a part of a blob alone, though it has to verify it (see `GetBlobOptions.verify`). Default: true. False: the part or the whole, and says which. */
  readonly ranges: boolean;
  /** Takes manifests without what they refer to. Default: false, MANIFEST_BLOB_UNKNOWN. */
  readonly sparse: boolean;
  /** Heeds `ifMatch` and `ifNoneMatch` of a put. Default: true. False: refuses such a put. */
  readonly conditionalPuts: boolean;
  /** Takes content named by sha512. Default: true. False: DIGEST_INVALID or UNSUPPORTED. */
  readonly sha512: boolean;
  /** Shows a change of the seed at once. Default: true. False, as for caches: later. */
  readonly live: boolean;
}

/** Two names of one repository. */
export interface RegistryAlias {
  readonly name: string;
  /** What `canonicalName` makes of it. */
  readonly canonical: string;
}
