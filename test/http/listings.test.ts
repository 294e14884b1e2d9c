import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { found } from "../../src/core/lookup.js";
import { makeImage, pushBlobs, pushImage } from "../fixtures/images.js";
import { emptyRegistry, errorCode, overriding, site } from "./support.js";

test("tags, page by page", async () => {
  const { registry, fetch } = await site();
  const image = await pushImage(registry, "team/app", "b");
  for (const tag of ["a", "c", "B"]) await registry.putManifest("team/app", tag, { bytes: image.manifest });
  const list = async (query: string) => {
    const response = await fetch(`/v2/team/app/tags/list${query}`);
    expect(response.headers.get("content-type")).toBe("application/json");
    const { name, tags } = (await response.json()) as { name: string; tags: string[] };
    expect(name).toBe("team/app");
    return [tags, response.headers.get("link")];
  };
  expect(await list("")).toEqual([["B", "a", "b", "c"], null]);
  expect(await list("?n=2")).toEqual([["B", "a"], '</v2/team/app/tags/list?n=2&last=a>; rel="next"']);
  expect(await list("?n=2&last=a")).toEqual([["b", "c"], null]);
  expect(await list("?last=aa")).toEqual([["b", "c"], null]);
  expect(await list("?n=0")).toEqual([[], null]);
  expect(await list("?n=1&x=%2B&last=a")).toEqual([["b"], '</v2/team/app/tags/list?n=1&x=%2B&last=b>; rel="next"']);
  expect(await list("?n=99999999999")).toEqual([["B", "a", "b", "c"], null]);
  for (const n of ["-1", "x", "1.5", ""]) expect((await fetch(`/v2/team/app/tags/list?n=${n}`)).status).toBe(400);
  expect((await fetch("/v2/team/app/tags/list?last=%00")).status).toBe(400);
  const head = await fetch("/v2/team/app/tags/list", { method: "HEAD" });
  expect([head.status, Number(head.headers.get("content-length")) > 0]).toEqual([200, true]);
});

test("n is clamped, with a Link", async () => {
  const limits: number[] = [];
  const registry = overriding(emptyRegistry(), {
    listTags: async (_, page) => {
      limits.push(page.limit);
      return found({ items: ["a"], next: "a" }, { member: [] });
    },
  });
  const { fetch } = await site(registry);
  const response = await fetch("/v2/app/tags/list?n=5000&ns2=x");
  expect(response.headers.get("link")).toBe('</v2/app/tags/list?n=1000&ns2=x&last=a>; rel="next"');
  await fetch("/v2/app/tags/list");
  expect(limits).toEqual([1000, 1000]);
});

test("tags of an unknown repository are NAME_UNKNOWN, those of one without tags an empty list", async () => {
  const { registry, fetch } = await site();
  for (const query of ["", "?n=0"]) {
    const unknown = await fetch(`/v2/nope/tags/list${query}`);
    expect([unknown.status, await errorCode(unknown)]).toEqual([404, "NAME_UNKNOWN"]);
  }
  await pushImage(registry, "app", "latest");
  await registry.deleteManifest("app", "latest");
  expect(await (await fetch("/v2/app/tags/list")).json()).toEqual({ name: "app", tags: [] });
});

test("the catalog", async () => {
  const { registry, fetch } = await site();
  expect(await (await fetch("/v2/_catalog")).json()).toEqual({ repositories: [] });
  for (const name of ["b", "a/x", "c"]) await pushImage(registry, name, "latest");
  expect(await (await fetch("/v2/_catalog")).json()).toEqual({ repositories: ["a/x", "b", "c"] });
  const page = await fetch("/v2/_catalog?n=1");
  expect(page.headers.get("link")).toBe('</v2/_catalog?n=1&last=a%2Fx>; rel="next"');
  const link = /<(.*)>/.exec(page.headers.get("link") ?? "")?.[1] ?? "";
  expect(await (await fetch(link)).json()).toEqual({ repositories: ["b"] });
  expect(await (await fetch("/v2/_catalog?n=0")).json()).toEqual({ repositories: [] });
});

test("referrers are always 200, with the exact type", async () => {
  const { registry, fetch } = await site();
  const zero = `sha256:${"0".repeat(64)}`;
  for (const name of ["nope", "app"]) {
    const response = await fetch(`/v2/${name}/referrers/${zero}`);
    expect([response.status, response.headers.get("content-type")]).toEqual([200, mediaTypes.ociIndex]);
    expect(await response.json()).toEqual({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] });
  }
  const subject = { mediaType: mediaTypes.ociManifest, digest: zero, size: 1 };
  const kinds = ["application/spdx+json", "application/vnd.signature"];
  const digests: string[] = [];
  for (const artifactType of kinds) {
    const image = makeImage([], { subject, artifactType, annotations: { kind: artifactType } });
    await pushBlobs(registry, "app", image);
    await registry.putManifest("app", image.digest, { bytes: image.manifest });
    digests.push(image.digest);
  }
  const all = await fetch(`/v2/app/referrers/${zero}`);
  const { manifests } = (await all.json()) as { manifests: { digest: string }[] };
  expect(manifests.map(({ digest }) => digest)).toEqual([...digests].sort());
  expect(all.headers.get("oci-filters-applied")).toBeNull();
  // Encoded or not: a "+" in a query is a space to most parsers.
  for (const query of ["application/spdx+json", "application%2Fspdx%2Bjson"]) {
    const filtered = await fetch(`/v2/app/referrers/${zero}?artifactType=${query}`);
    expect(filtered.headers.get("oci-filters-applied")).toBe("artifactType");
    expect(await filtered.json()).toMatchObject({
      manifests: [{ digest: digests[0], artifactType: kinds[0], annotations: { kind: kinds[0] } }],
    });
  }
  const bad = await fetch("/v2/app/referrers/latest");
  expect([bad.status, await errorCode(bad)]).toEqual([400, "DIGEST_INVALID"]);
});

test("warnings are one ASCII line each, and bounded", async () => {
  const warnings = ['old "answer"', "höher\r\nX-Evil: 1", ...Array.from({ length: 100 }, () => "x".repeat(100))];
  const registry = overriding(emptyRegistry(), {
    listTags: async () => found({ items: [], warnings }, { member: [] }),
    resolveBlob: async (_, digest) => found({ mediaType: "a/b", digest: digest as never, size: 1 }, { member: [], warnings: ["stale"] }),
  });
  const { fetch } = await site(registry, { anonymousWrites: true, showTopology: true });
  const { headers } = await fetch("/v2/app/tags/list");
  const text = headers.get("warning") ?? "";
  expect(text.startsWith('299 - "old \\"answer\\"", 299 - "h?her?X-Evil: 1", 299 - "x')).toBe(true);
  expect(text.length).toBeLessThan(4096 + 200);
  expect(headers.get("x-evil")).toBeNull();
  const head = await fetch(`/v2/app/blobs/${digestOf(Buffer.of(1))}`, { method: "HEAD" });
  expect(head.headers.get("warning")).toBe('299 - "stale"');
});

test("the reason of a warning is only for those who may know of members", async () => {
  const warnings = [
    "this list is not complete: hub could not be listed: 10.1.2.3 refused",
    `of sha256:${"0".repeat(8)} nothing more`,
    'a "quote: x',
  ];
  const registry = overriding(emptyRegistry(), { listTags: async () => found({ items: [], warnings }, { member: [] }) });
  const others = await site(registry);
  const told = async (fetch: typeof others.fetch) => (await fetch("/v2/app/tags/list")).headers.get("warning");
  expect(await told(others.fetch)).toBe('299 - "this list is not complete", 299 - "of sha256:00000000 nothing more", 299 - "a \\"quote"');
  const insiders = await site(registry, { anonymousWrites: true, showTopology: true });
  expect(await told(insiders.fetch)).toContain("hub could not be listed: 10.1.2.3 refused");
});
