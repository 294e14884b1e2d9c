import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Descriptor, localRegistry, mediaTypes, orThrow, type Registry } from "oci-manifold";
import { digestOf, type StoringRegistry } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { pack } from "tar-stream";
import type { Image } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";

export const refName = "org.opencontainers.image.ref.name";

export const local = (name: string, more: { sparse?: boolean } = {}): StoringRegistry =>
  localRegistry({ storage: memoryStorage(), name, ...more });

/** The files of a layout by their names, as a tool would write them. */
export type Files = Map<string, Uint8Array>;

export const pathOf = (digest: string) => `blobs/${digest.replace(":", "/")}`;

export const named = (bytes: Uint8Array, name?: string, mediaType: string = mediaTypes.ociManifest) => ({
  mediaType,
  digest: digestOf(bytes),
  size: bytes.byteLength,
  ...(name !== undefined && { annotations: { [refName]: name } }),
});

/** A layout of these images; entries of `index.json` come from `entries`. */
export function layoutOf(images: readonly Image[], entries: readonly object[], more: readonly Uint8Array[] = []): Files {
  const files: Files = new Map();
  files.set("oci-layout", Buffer.from('{"imageLayoutVersion":"1.0.0"}'));
  files.set("index.json", Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: entries })));
  for (const { blobs, manifest } of images) {
    for (const [digest, bytes] of blobs) files.set(pathOf(digest), bytes);
    files.set(pathOf(digestOf(manifest)), manifest);
  }
  for (const bytes of more) files.set(pathOf(digestOf(bytes)), bytes);
  return files;
}

export function writeFolder(folder: string, files: Files): string {
  for (const [name, bytes] of files) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), bytes);
  }
  return folder;
}

export type TarEntry = readonly [
  header: { name: string; type?: "file" | "symlink" | "link" | "directory"; linkname?: string },
  bytes?: Uint8Array,
];

export async function tarBytes(entries: readonly TarEntry[]): Promise<Buffer> {
  const archive = pack();
  for (const [header, bytes] of entries) archive.entry(header, Buffer.from(bytes ?? []));
  archive.finalize();
  const chunks: Uint8Array[] = [];
  for await (const chunk of archive) if (Buffer.isBuffer(chunk)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Makes the checksum of a changed header right, so that what was changed counts. */
export function writeChecksum(header: Uint8Array): void {
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, value) => total + value, 0);
  Buffer.from(sum.toString(8).padStart(6, "0")).copy(header, 148);
}

export async function writeArchive(path: string, files: Files, more: readonly TarEntry[] = []): Promise<string> {
  writeFileSync(path, await tarBytes([...[...files].map(([name, bytes]): TarEntry => [{ name }, bytes]), ...more]));
  return path;
}

/** All files of a folder, by their names. */
export function filesIn(folder: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
      .map((path) => [path.slice(folder.length + 1), readFileSync(path, "base64")]),
  );
}

/** Everything that can be pulled from a repository: tags, and the bytes of manifests and blobs. */
export async function contentsOf(registry: StoringRegistry, repository: string): Promise<Record<string, string>> {
  const contents: Record<string, string> = {};
  const tags = await registry.listTags(repository, { limit: 1000 });
  for (const tag of tags.kind === "found" ? tags.value.items : []) contents[`tag ${tag}`] = await standsAt(registry, repository, tag);
  for (const { digest } of (await registry.listManifests(repository, { limit: 1000 })).items) {
    const { bytes, descriptor } = orThrow(await registry.getManifest(repository, digest));
    contents[`manifest ${digest}`] = `${descriptor.mediaType} ${Buffer.from(bytes).toString("base64")}`;
  }
  for (const { descriptor } of (await registry.listBlobReferences(repository, { limit: 1000 })).items) {
    contents[`blob ${descriptor.digest}`] = (await bytesOf(await registry.getBlob(repository, descriptor.digest))).toString("base64");
  }
  return contents;
}

export async function standsAt(registry: Registry, repository: string, reference: string): Promise<string> {
  const lookup = await registry.resolveManifest(repository, reference);
  return lookup.kind === "found" ? lookup.value.digest : lookup.kind;
}

export const subjectOf = (image: {
  digest: string;
  manifest: Uint8Array;
}): { subject: Omit<Descriptor, "digest"> & { digest: string } } => ({
  subject: { mediaType: mediaTypes.ociManifest, digest: image.digest, size: image.manifest.byteLength },
});
