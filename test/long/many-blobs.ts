import { type Digest, mediaTypes, type Storage } from "oci-manifold";
import { type Change, digestOf, parseDigest } from "oci-manifold/extend";
import { recordKey } from "../../src/core/records.js";

/** A digest of nothing, by number, in the order of the numbers: a database fills several times as fast in the order of its keys. */
function digestNumber(index: number): Digest {
  const place = Math.floor((index * 2 ** 32) / 2_000_000);
  return parseDigest(`sha256:${place.toString(16).padStart(8, "0")}${digestOf(Buffer.from(`blob ${index}`)).slice(-56)}`);
}

const size = 1000;

/**
 * Writes records as pushes long ago would have left them: each repository has so many blobs, and a manifest for every 10,000 that refers to `live` of them.
 * There are no bytes.
 */
export async function fillBlobs({ metadata }: Storage, repositories: readonly number[], live: number): Promise<number> {
  let index = 0;
  for (const [number, blobs] of repositories.entries()) {
    const repository = `many/r${String(number).padStart(4, "0")}`;
    for (let from = 0; from < blobs; from += 10_000) {
      const digests = Array.from({ length: Math.min(10_000, blobs - from) }, () => digestNumber(index++));
      const changes = digests.flatMap((digest): Change[] => [
        { put: recordKey.blob(digest), value: { location: locationOf(digest), size, committedAt: 0 } },
        { put: recordKey.link("release", repository, digest), value: { size, linkedAt: 0 } },
        { put: recordKey.linkByDigest("release", digest, repository), value: {} },
      ]);
      const descriptors = digests.slice(0, live).map((digest) => ({ mediaType: mediaTypes.octetStream, digest, size }));
      const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, config: descriptors[0], layers: descriptors.slice(1) }));
      const manifest = recordKey.manifest("release", repository, parseDigest(digestOf(bytes)));
      await metadata.commit([], [...changes, { put: manifest, value: { mediaType: mediaTypes.ociManifest, pushedAt: 0 }, bytes }]);
    }
  }
  return index;
}

function locationOf(digest: Digest): string {
  const hex = digest.slice("sha256:".length);
  return `blobs/sha256/${hex.slice(0, 2)}/${hex}.0000000000000000`;
}
