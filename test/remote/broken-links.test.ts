import { describe, expect, it } from "vitest";
import { allPages } from "../../src/core/page.js";
import type { FakeRequest, Fault } from "../../src/testing/fake-upstream.js";
import { errorOf, foundIn, impatientClock, remoteFor, seen, upstreamFor } from "./support.js";

const tags = Array.from({ length: 7 }, (_, at) => `v${at}`);

async function pagedFor(pageSize = 3) {
  const upstream = await upstreamFor({ pageSize });
  for (const tag of tags) upstream.addManifest("a", tag, {});
  return { upstream, registry: remoteFor(upstream, { clock: impatientClock() }) };
}

/** The link that a page has, changed. */
function linked(upstream: { url: string }, change: (target: string) => string) {
  return ({ url }: FakeRequest): Fault | undefined => {
    const { pathname, searchParams } = new URL(url, upstream.url);
    if (!pathname.startsWith("/v2/")) return { status: 404 };
    const last = searchParams.get("last");
    const at = tags.filter((tag) => last === null || tag > last).slice(0, 3);
    const end = at.at(-1);
    const more = end !== undefined && end !== tags.at(-1);
    return more ? { headers: { link: change(`${pathname}?n=3&last=${end}`) } } : undefined;
  };
}

describe("a link that cannot be followed", () => {
  it.each<[string, (target: string) => string]>([
    ["has a prefix that is not there", (target) => `</registry${target}>; rel="next"`],
    ["lacks the path", (target) => `</${target.split("/").at(-1)}>; rel="next"`],
    ["names an internal host", (target) => `<http://registry.internal:5000${target}>; rel="next"`],
    ["is https on the same host", (target) => `<https://127.0.0.1${target}>; rel="next"`],
    ["holds a user name", (target) => `<http://u:p@127.0.0.1${target}>; rel="next"`],
    ["is no URL", () => '<http://[>; rel="next"'],
    ["does not say that it is the next one", (target) => `<${target}>`],
    ["leads in a circle", () => '</v2/a/tags/list?n=100>; rel="next"'],
  ])("loses no tag: it %s", async (_, change) => {
    const { upstream, registry } = await pagedFor();
    upstream.intercept = linked(upstream, change);
    expect(foundIn(await registry.listTags("a", { limit: 100 })).items).toEqual(tags);
    for (const limit of [2, 3]) {
      const items: string[] = [];
      for await (const tag of allPages(async (page) => foundIn(await registry.listTags("a", page)), limit)) items.push(tag);
      expect(items).toEqual(tags);
    }
  });

  it("is followed once, and then no more", async () => {
    const { upstream, registry } = await pagedFor();
    upstream.intercept = linked(upstream, (target) => `</prefix${target}>; rel="next"`);
    expect(foundIn(await registry.listTags("a", { limit: 100 }))).toEqual({ items: tags });
    expect(seen(upstream)).toEqual([
      "GET /v2/a/tags/list?n=100",
      "GET /prefix/v2/a/tags/list?n=3&last=v2",
      "GET /v2/a/tags/list?n=100&last=v2",
      "GET /v2/a/tags/list?n=100&last=v5",
      "GET /v2/a/tags/list?n=100&last=v6",
    ]);
  });

  it.each<[string, Fault]>([
    ["a list without names", { body: "{}" }],
    ["a web page", { body: "<html>", headers: { "content-type": "text/html" } }],
  ])("loses no tag when it leads to %s", async (_, fault) => {
    const { upstream, registry } = await pagedFor();
    const link = linked(upstream, (target) => `</prefix${target}>; rel="next"`);
    upstream.intercept = (request) => (request.url.startsWith("/prefix") ? { status: 200, ...fault } : link(request));
    expect(foundIn(await registry.listTags("a", { limit: 100 }))).toEqual({ items: tags });
  });

  it("loses no repository", async () => {
    const upstream = await upstreamFor({ pageSize: 1 });
    for (const name of ["a", "b", "c"]) upstream.addImage(name, "1");
    upstream.intercept = ({ url }) =>
      url.endsWith("last=c") ? undefined : { headers: { link: '<http://inner/v2/_catalog?n=1>; rel="next"' } };
    expect(foundIn(await remoteFor(upstream).listRepositories({ limit: 10 }))).toEqual({ items: ["a", "b", "c"] });
  });
});

describe("a second page that cannot be had", () => {
  const later = ({ url }: FakeRequest) => url.includes("last=");

  it.each([400, 401, 403, 404, 405, 500])("ends a list with a warning: %i", async (status) => {
    const { upstream, registry } = await pagedFor();
    upstream.intercept = (request) => (later(request) ? { status } : undefined);
    const page = foundIn(await registry.listTags("a", { limit: 100 }));
    expect(page).toEqual({
      items: ["v0", "v1", "v2"],
      warnings: [expect.stringMatching(/^this list may not be complete: what comes after "v2"/)],
    });
    const repositories = foundIn(await registry.listRepositories({ limit: 100 }));
    expect(repositories).toEqual({ items: ["a"], warnings: [expect.stringContaining("what comes after")] });
  });

  it.each<[string, Fault]>([
    ["breaks off", { truncateAfter: 3 }],
    ["is no list", { status: 200, body: "[]" }],
    ["hangs up", { hangUp: true }],
  ])("ends a list with a warning: it %s", async (_, fault) => {
    const { upstream, registry } = await pagedFor();
    upstream.intercept = (request) => (later(request) ? fault : undefined);
    const page = foundIn(await registry.listTags("a", { limit: 100 }));
    expect(page.items).toEqual(["v0", "v1", "v2"]);
    expect(page.warnings).toHaveLength(1);
  });

  it.each([400, 404, 500])("is read from the beginning when a client asks for it, by links of the upstream's own: %i", async (status) => {
    const { upstream, registry } = await pagedFor();
    const cursor = ({ url }: FakeRequest): Fault | undefined => {
      if (url.includes("last=")) return { status };
      const from = Number(new URL(url, upstream.url).searchParams.get("cursor") ?? 0);
      const headers = from + 3 < tags.length ? { link: `</v2/a/tags/list?cursor=${from + 3}>; rel="next"` } : { link: undefined };
      return { body: JSON.stringify({ tags: tags.slice(from, from + 3) }), headers };
    };
    upstream.intercept = cursor;
    const items: string[] = [];
    for await (const tag of allPages(async (page) => foundIn(await registry.listTags("a", page)), 3)) items.push(tag);
    expect(items).toEqual(tags);
  });

  it("is an empty one with a warning when a client asks for it and there are no links", async () => {
    const { upstream, registry } = await pagedFor(100);
    upstream.intercept = (request) => (later(request) ? { status: 404 } : undefined);
    expect(foundIn(await registry.listTags("a", { limit: 100, after: "v6" }))).toEqual({ items: [], warnings: [expect.any(String)] });
    expect(foundIn(await registry.listTags("a", { limit: 100, after: "v3" })).items).toEqual(["v4", "v5", "v6"]);
  });

  it("does not stand for the first one", async () => {
    const { upstream, registry } = await pagedFor();
    foundIn(await registry.listTags("a", { limit: 2 }));
    upstream.intercept = () => ({ status: 404 });
    expect((await registry.listTags("a", { limit: 2, after: "v1" })).kind).toBe("absent");
    upstream.intercept = () => ({ status: 500 });
    expect(errorOf(await registry.listTags("a", { limit: 2, after: "v1" })).code).toBe("UNAVAILABLE");
  });

  it("ends a list of referrers with a warning", async () => {
    const upstream = await upstreamFor();
    const image = upstream.addImage("a", "1");
    const { descriptor } = upstream.addImage("a", undefined, { subject: image.descriptor, artifactType: "a/b" });
    upstream.addIndex("a", image.digest.replace(":", "-"), [image.descriptor]);
    const path = `/v2/a/referrers/${image.digest}`;
    const registry = remoteFor(upstream, { clock: impatientClock() });
    for (const link of [
      `</prefix${path}?page=2>; rel="next"`,
      `<https://127.0.0.1${path}?page=2>; rel="next"`,
      `<${path}?page=2>`,
      `<${path}?page=2>; rel="next"`,
    ]) {
      for (const fault of [{ status: 404 }, { status: 500 }, { status: 200, body: "<html>", headers: { "content-type": "text/html" } }]) {
        upstream.intercept = ({ url }) => (url === path ? { headers: { link } } : fault);
        const page = foundIn(await registry.listReferrers("a", image.digest, { limit: 10 }));
        expect(page.items.map(({ digest }) => digest)).toEqual([descriptor.digest]);
        expect(page.warnings).toEqual([
          expect.stringMatching(/^this list may not be complete: what comes after page 1 could not be had: /),
        ]);
      }
    }
  });
});
