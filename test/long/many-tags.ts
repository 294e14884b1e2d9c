import type { Digest } from "oci-manifold";
import type { Change } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";

export function tagNumber(index: number): string {
  return `v${String(index).padStart(7, "0")}`;
}

/** Writes records as so many pushes of one manifest under different tags would have left them. */
export async function fillTags(data: string, registry: string, repository: string, digest: Digest, count: number): Promise<void> {
  const { metadata, blobs } = fileStorage(data);
  await metadata.ready();
  const batch = 10_000;
  for (let from = 0; from < count; from += batch) {
    const tags = Array.from({ length: Math.min(batch, count - from) }, (_, index) => tagNumber(from + index));
    await metadata.commit(
      [],
      tags.flatMap((tag): Change[] => [
        { put: { kind: "tag", parts: [registry, repository, tag] }, value: { digest, updatedAt: 0 } },
        { put: { kind: "tagByDigest", parts: [registry, repository, digest, tag] }, value: {} },
      ]),
    );
  }
  await Promise.all([metadata.close(), blobs.close()]);
}
