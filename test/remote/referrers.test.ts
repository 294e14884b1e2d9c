import { describe, expect, it } from "vitest";
import { digestOf } from "../../src/core/digest.js";
import { mediaTypes } from "../../src/core/media-types.js";
import { referrersTag } from "../../src/core/references.js";
import type { FakeUpstreamOptions } from "../../src/testing/fake-upstream.js";
import { foundIn, remoteFor, seen, upstreamFor } from "./support.js";

const sbom = "application/spdx+json";
const signature = "application/vnd.example.signature";

async function signedFor(options: FakeUpstreamOptions = {}) {
  const upstream = await upstreamFor(options);
  const image = upstream.addImage("a", "1");
  const referrers = [sbom, signature, sbom].map((artifactType) => ({
    ...upstream.addImage("a", undefined, { subject: image.descriptor, artifactType }).descriptor,
    artifactType,
  }));
  const sorted = referrers.sort((x, y) => (x.digest < y.digest ? -1 : 1));
  return { upstream, image, referrers: sorted, registry: remoteFor(upstream) };
}

describe("listReferrers", () => {
  it("asks the API, sorted by digest and in pages", async () => {
    const { upstream, image, referrers, registry } = await signedFor();
    expect(foundIn(await registry.listReferrers("a", image.digest, { limit: 10 }))).toEqual({ items: referrers });
    expect(seen(upstream)).toEqual([`GET /v2/a/referrers/${image.digest}`]);
    const first = foundIn(await registry.listReferrers("a", image.digest, { limit: 2 }));
    expect(first).toEqual({ items: referrers.slice(0, 2), next: referrers[1]?.digest });
    expect(foundIn(await registry.listReferrers("a", image.digest, { limit: 2, after: first.next }))).toEqual({
      items: referrers.slice(2),
    });
  });

  it("filters, unless the upstream says it has", async () => {
    const { upstream, image, referrers, registry } = await signedFor();
    const ask = async () => foundIn(await registry.listReferrers("a", image.digest, { limit: 10, artifactType: sbom })).items;
    const sboms = referrers.filter(({ artifactType }) => artifactType === sbom);
    expect(await ask()).toEqual(sboms);
    expect(seen(upstream)).toEqual([`GET /v2/a/referrers/${image.digest}?artifactType=${encodeURIComponent(sbom)}`]);
    const all = JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: referrers });
    upstream.intercept = () => ({ body: all, headers: { "oci-filters-applied": undefined } });
    expect(await ask()).toEqual(sboms);
    upstream.intercept = () => ({ body: all });
    expect(await ask()).toEqual(referrers);
  });

  it.each([
    ["answers 404", { referrers: false }, undefined],
    ["answers a web page", {}, { status: 200, body: "<html>", headers: { "content-type": "text/html" } }],
  ] as const)("reads the referrers tag when the upstream %s", async (_, options, fault) => {
    const { upstream, image, referrers, registry } = await signedFor(options);
    upstream.intercept = ({ url }) => (url.includes("/referrers/") ? fault : undefined);
    expect(foundIn(await registry.listReferrers("a", image.digest, { limit: 10 }))).toEqual({ items: [] });
    upstream.addIndex("a", image.digest.replace(":", "-"), referrers);
    expect(foundIn(await registry.listReferrers("a", image.digest, { limit: 10 })).items).toEqual(referrers);
    expect(foundIn(await registry.listReferrers("a", image.digest, { limit: 10, artifactType: signature })).items).toHaveLength(1);
    upstream.addImage("a", image.digest.replace(":", "-"));
    expect(foundIn(await registry.listReferrers("a", image.digest, { limit: 10 })).items).toEqual([]);
  });

  it("follows pages, and takes a repeated referrer once", async () => {
    const { upstream, image, referrers, registry } = await signedFor();
    const page = (manifests: object[]) => JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests });
    const next = `</v2/a/referrers/${image.digest}?page=2>; rel=next`;
    upstream.intercept = ({ url }) =>
      url.endsWith("page=2") ? { body: page(referrers.slice(1)) } : { body: page(referrers.slice(0, 2)), headers: { link: next } };
    expect(foundIn(await registry.listReferrers("a", image.digest, { limit: 10 })).items).toEqual(referrers);
  });

  it("is unavailable for an invalid descriptor, and denied when refused", async () => {
    const { upstream, image, registry } = await signedFor();
    upstream.intercept = () => ({
      body: JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType: "a/b", digest: "sha256:../x", size: 1 }] }),
    });
    expect((await registry.listReferrers("a", image.digest, { limit: 10 })).kind).toBe("unavailable");
    upstream.intercept = () => ({ status: 403 });
    expect((await registry.listReferrers("a", image.digest, { limit: 10 })).kind).toBe("denied");
  });

  it("cuts the referrers tag to the length of a tag", () => {
    const bytes = Buffer.from("x");
    expect(referrersTag(digestOf(bytes))).toBe(digestOf(bytes).replace(":", "-"));
    expect(referrersTag(digestOf(bytes, "sha512"))).toMatch(/^sha512-[a-f0-9]{64}$/);
  });

  it.each([1000, 3])("keeps no more of any number of pages than a manifest is long: pages of %i", async (limit) => {
    const { upstream, image, registry } = await signedFor();
    const items = Array.from({ length: 15 }, (_, number) => ({
      mediaType: mediaTypes.ociManifest,
      digest: digestOf(Buffer.from(`referrer ${number}`)),
      size: 1,
      annotations: { long: "x".repeat(1_000_000) },
    }));
    // In no order, three a page.
    upstream.intercept = ({ url }) => {
      const from = Number(new URL(url, upstream.url).searchParams.get("from") ?? 0);
      const next = from + 3 < items.length ? { link: `<${url.split("?")[0]}?from=${from + 3}>; rel="next"` } : {};
      const body = JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: items.slice(from, from + 3) });
      return { body, headers: next };
    };
    const listed: string[] = [];
    let after: string | undefined;
    do {
      const page = foundIn(await registry.listReferrers("a", image.digest, { limit, ...(after !== undefined && { after }) }));
      expect(page.items.length).toBeLessThanOrEqual(Math.min(limit, 4));
      listed.push(...page.items.map(({ digest }) => digest));
      after = page.next;
    } while (after !== undefined);
    expect(listed).toEqual(items.map(({ digest }) => digest).sort());
  });
});
