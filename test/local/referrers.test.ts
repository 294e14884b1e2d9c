import { type Descriptor, localRegistry, mediaTypes, orThrow, type Registry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, expect, test } from "vitest";
import { referrersTag } from "../../src/core/references.js";
import { makeImage, pushImage } from "../fixtures/images.js";

let registry: Registry;
const subject = { mediaType: mediaTypes.ociManifest, digest: digestOf(Buffer.from("subject")), size: 7 };

beforeEach(() => {
  registry = localRegistry({ storage: memoryStorage(), name: "r" });
});

async function attach(artifactType: string, more: object = {}): Promise<Descriptor> {
  const image = makeImage([1], { subject, artifactType, ...more });
  await pushImage(registry, "app", artifactType.replace("/", "-"), image);
  return { mediaType: mediaTypes.ociManifest, digest: digestOf(image.manifest), size: image.manifest.byteLength, artifactType };
}

async function all(limit: number, artifactType?: string): Promise<{ pages: number; items: Descriptor[] }> {
  const items: Descriptor[] = [];
  let pages = 0;
  for (let after: string | undefined, more = true; more; more = after !== undefined) {
    const request = { limit, ...(after !== undefined && { after }), ...(artifactType !== undefined && { artifactType }) };
    const page = orThrow(await registry.listReferrers("app", subject.digest, request));
    expect(page.items.length).toBeLessThanOrEqual(limit);
    items.push(...page.items);
    after = page.next;
    pages++;
  }
  return { pages, items };
}

const digests = (items: readonly Descriptor[]) => items.map((item) => item.digest);

test("a page of none is empty, and the last", async () => {
  for (const type of ["a/1", "a/2", "a/3"]) await attach(type);
  expect(orThrow(await registry.listReferrers("app", subject.digest, { limit: 0 }))).toEqual({ items: [] });
});

test("pages are exact, whatever their size, filtered or not", async () => {
  const attached: Descriptor[] = [];
  for (let i = 0; i < 25; i++) attached.push(await attach(`application/${i % 5 === 0 ? "a" : "b"}${i}`));
  const sorted = digests(attached).sort();
  for (const limit of [1, 7, 8, 24, 25, 26, 1000]) {
    const { items, pages } = await all(limit);
    expect(digests(items)).toEqual(sorted);
    expect(pages).toBe(Math.ceil(25 / limit));
  }
  expect(digests((await all(2, "application/a10")).items)).toEqual([attached[10]?.digest]);
});

test("a page is no larger than a manifest may be, though one descriptor may fill it", async () => {
  const annotations = { filler: "x".repeat(1_500_000) };
  for (let i = 0; i < 12; i++) await attach(`application/x${i}`, { annotations });
  const { items, pages } = await all(1000);
  expect(items).toHaveLength(12);
  expect(pages).toBe(6);
});

test("what a pushed fallback-tag index lists is taken in, as far as it is here", async () => {
  const attached = [await attach("application/a"), await attach("application/b")];
  const older = await pushImage(registry, "app", "older", makeImage([2]));
  const listed = {
    mediaType: mediaTypes.ociManifest,
    digest: digestOf(older.manifest),
    size: older.manifest.byteLength,
    artifactType: "application/older",
    annotations: { by: "an old client" },
  };
  const index = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [listed, attached[0]] };
  const tag = referrersTag(subject.digest);
  expect(tag).toBe(subject.digest.replace(":", "-"));
  await registry.putManifest("app", tag, { bytes: Buffer.from(JSON.stringify(index)) });
  const expected = [...digests(attached), listed.digest].sort();
  for (const limit of [1, 2, 3, 10]) expect(digests((await all(limit)).items)).toEqual(expected);
  expect((await all(10, "application/older")).items).toEqual([listed]);
  await registry.deleteManifest("app", listed.digest);
  expect(digests((await all(10)).items)).toEqual(digests(attached).sort());
});

test("an image under the fallback tag is none of its referrers", async () => {
  await pushImage(registry, "app", referrersTag(subject.digest), makeImage([3]));
  expect((await all(10)).items).toEqual([]);
  expect(referrersTag(digestOf(Buffer.from("x"), "sha512"))).toMatch(/^sha512-[a-f0-9]{64}$/);
});
