import { LRUCache } from "lru-cache";
import type { Descriptor } from "../core/descriptor.js";
import { followManifest, type Manifest } from "../core/manifest.js";

/** Bytes of JSON that the manifests in memory were read from: two of the largest, or thousands of ordinary ones. Read, they take a few times as much. */
const memoryLimit = 8 * 1024 * 1024;
/** What even the smallest manifest takes. */
const overhead = 1000;

const followed = new LRUCache<string, Manifest>({ maxSize: memoryLimit });

/**
 * Reads what a manifest refers to, once for each digest: a filter looks at the manifest of every pull, and reading a large one takes tens of milliseconds.
 *
 * @param bytes must be those of the digest.
 * @throws RegistryError MANIFEST_INVALID when the bytes are no manifest.
 */
export function followedManifest({ digest, mediaType }: Descriptor, bytes: Uint8Array): Manifest {
  const key = `${digest} ${mediaType}`;
  const known = followed.get(key);
  if (known) return known;
  const manifest = followManifest(bytes, mediaType);
  followed.set(key, manifest, { size: bytes.byteLength + overhead });
  return manifest;
}
