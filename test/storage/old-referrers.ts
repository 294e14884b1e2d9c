import { type Descriptor, type Digest, localRegistry, mediaTypes, orThrow, type Storage } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { expect } from "vitest";

const subject = digestOf(Buffer.from("what older code's referrers refer to"));
const repository = "team/old";

interface OldReferrer {
  readonly bytes: Uint8Array;
  readonly descriptor: Descriptor;
}

function oldReferrer(more: { artifactType?: string; annotations?: Record<string, string> }): OldReferrer {
  const manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociIndex,
    manifests: [],
    subject: { mediaType: "a/b", digest: subject, size: 1 },
    ...more,
  };
  const bytes = Buffer.from(JSON.stringify(manifest));
  return { bytes, descriptor: { mediaType: mediaTypes.ociIndex, digest: digestOf(bytes), size: bytes.byteLength, ...more } };
}

const plain = "application/vnd.example.plain";
const quoted = 'application/vnd.example.bundle; version="0.3"';

/** As format 3 kept them: each with all its annotations, and found by digest alone. */
const referrers = [
  oldReferrer({ artifactType: plain }),
  oldReferrer({ artifactType: plain, annotations: { nul: "\u0000", quotes: '","annotations":{"' } }),
  oldReferrer({ artifactType: plain, annotations: { long: `\u0000 "artifactType":"x/y" \u{1f40b}`.repeat(1000) } }),
  oldReferrer({ artifactType: quoted, annotations: { short: "1" } }),
  oldReferrer({ annotations: { artifactType: "application/vnd.example.none", long: "x".repeat(5000) } }),
];

/** Rows of the tables `records` and `contents`; versions count from `version`. */
export function oldRows(version: number): { kind: string; key: string; value: string; version: number; bytes?: Uint8Array }[] {
  return referrers.flatMap(({ bytes, descriptor }, index) => [
    {
      kind: "manifest",
      key: ["release", repository, descriptor.digest].join("\u0001"),
      value: JSON.stringify({ mediaType: descriptor.mediaType, pushedAt: 1 }),
      version: version + 2 * index,
      bytes,
    },
    {
      kind: "referrer",
      key: ["release", repository, subject, descriptor.digest].join("\u0001"),
      value: JSON.stringify({ descriptor }),
      version: version + 2 * index + 1,
    },
  ]);
}

/** That today's code lists them all, and each under its type alone; and that deleting one takes both of its records along. */
export async function checkOldReferrers(storage: Storage): Promise<void> {
  const registry = localRegistry({ storage, name: "release" });
  const sorted = (items: readonly OldReferrer[]) =>
    items.map(({ descriptor }) => descriptor).sort((a, b) => (a.digest < b.digest ? -1 : 1));
  const listed = async (artifactType?: string) =>
    orThrow(await registry.listReferrers(repository, subject, { limit: 10, ...(artifactType !== undefined && { artifactType }) })).items;
  expect(await listed()).toEqual(sorted(referrers));
  expect(await listed(plain)).toEqual(sorted(referrers.slice(0, 3)));
  expect(await listed(quoted)).toEqual(sorted(referrers.slice(3, 4)));
  for (const type of ["x/y", "application/vnd.example.none"]) expect(await listed(type)).toEqual([]);
  // A page of records holds no long annotations.
  const records = await storage.metadata.page({ kind: "referrer", under: ["release", repository, subject], limit: 10 });
  for (const { value } of records) expect(JSON.stringify(value).length).toBeLessThan(2100);
  for (const { descriptor } of referrers) await registry.deleteManifest(repository, descriptor.digest);
  for (const kind of ["referrer", "referrerByType"] as const)
    expect(await storage.metadata.page({ kind, under: ["release", repository, subject as Digest], limit: 10 })).toEqual([]);
}
