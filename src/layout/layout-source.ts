import { type FileHandle, open, stat } from "node:fs/promises";
import { wholeBody } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, digestOf } from "../core/digest.js";
import { errorText, isRegistryError, RegistryError } from "../core/errors.js";
import { type Manifest, manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { largeRead } from "../core/read-size.js";
import { systemCode } from "../core/system-code.js";

/**
 * An OCI image layout to read from, whatever holds its files: a folder (`layout-folder.ts`) or a tar archive (`layout-archive.ts`). Names of files are those of the
 * specification: `index.json`, `blobs/sha256/…`. Behind it are the reads of its content, checked, and of the files that hold it.
 */
export interface LayoutSource {
  /** Where it is, for messages. */
  readonly path: string;
  /** `undefined` when there is no such file. @throws RegistryError UNSUPPORTED for what is no plain file, or lies elsewhere. */
  size(file: string): Promise<number | undefined>;
  /** Opens nothing before it is read. */
  read(file: string): AsyncIterable<Uint8Array>;
  close(): Promise<void>;
}

/** Where a blob is in a layout. Only a checked digest may become a path. */
export function blobFile(digest: Digest): string {
  return `blobs/${digest.replace(":", "/")}`;
}

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

/** A whole small file. @throws RegistryError MANIFEST_INVALID when it is larger than `limit` bytes. */
export async function smallFile(source: LayoutSource, file: string, limit: number): Promise<Uint8Array | undefined> {
  if ((await source.size(file)) === undefined) return undefined;
  return wholeBody(
    source.read(file),
    limit,
    () => new RegistryError("MANIFEST_INVALID", `${file} in ${source.path} is larger than ${limit} bytes`, { status: 413 }),
  );
}

/** The bytes from `start` up to `end`, exclusive. @throws RegistryError SIZE_INVALID when the file ends earlier. */
export async function* bytesBetween(handle: FileHandle, start: number, end: number, what: string): AsyncGenerator<Uint8Array> {
  for (let at = start; at < end; ) {
    const buffer = Buffer.allocUnsafeSlow(Math.min(largeRead, end - at));
    const { bytesRead } = await handle.read(buffer, 0, buffer.byteLength, at);
    if (bytesRead === 0) throw new RegistryError("SIZE_INVALID", `${what} ends ${end - at} bytes too early`);
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** What lies at a path that the host named. @throws RegistryError UNAVAILABLE when it cannot be read. */
export async function kindOf(path: string): Promise<"folder" | "file" | "absent"> {
  try {
    const found = await stat(path);
    if (found.isDirectory()) return "folder";
    if (found.isFile()) return "file";
  } catch (error) {
    if (systemCode(error) === "ENOENT") return "absent";
    throw unreadableLayout(path, error);
  }
  throw new RegistryError("UNSUPPORTED", `${path} is neither a folder nor a file`);
}

export async function openFile(path: string, flags: number): Promise<FileHandle> {
  try {
    return await open(path, flags);
  } catch (error) {
    throw unreadableLayout(path, error);
  }
}

export function unreadableLayout(path: string, cause: unknown): RegistryError {
  return new RegistryError("UNAVAILABLE", `cannot read ${path}: ${errorText(cause)}`, { cause });
}
