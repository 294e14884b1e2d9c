import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { allPages } from "../../src/core/page.js";
import { nextPage } from "../../src/remote/link-header.js";
import type { FakeUpstreamOptions } from "../../src/testing/fake-upstream.js";
import { errorOf, foundIn, remoteFor, seen, upstreamFor } from "./support.js";

const ascii = (names: string[]) => names.sort((a, b) => (a < b ? -1 : 1));
const numbered = Array.from({ length: 250 }, (_, at) => `v${at}`);

async function tagsFor(tags: string[], options: FakeUpstreamOptions = {}) {
  const upstream = await upstreamFor(options);
  for (const tag of tags) upstream.addManifest("a", tag, {});
  return { upstream, registry: remoteFor(upstream) };
}

/** All items, page by page. */
async function everything(registry: Awaited<ReturnType<typeof tagsFor>>["registry"], limit: number) {
  const items: string[] = [];
  for await (const item of allPages(async (page) => foundIn(await registry.listTags("a", page)), limit)) items.push(item);
  return items;
}

describe("listTags", () => {
  it("asks an ordered upstream for just the page", async () => {
    const { upstream, registry } = await tagsFor(numbered);
    const page = foundIn(await registry.listTags("a", { limit: 100, after: "v100" }));
    const expected = ascii(numbered.filter((tag) => tag > "v100"));
    expect(page.items).toEqual(expected.slice(0, 100));
    expect(page.next).toBe(expected[99]);
    // The first page, once, since it shows whether the upstream sorts as we do.
    expect(seen(upstream)).toEqual(["GET /v2/a/tags/list?n=100", "GET /v2/a/tags/list?n=100&last=v100"]);
    upstream.requests.length = 0;
    foundIn(await registry.listTags("a", { limit: 100, after: "v12" }));
    expect(seen(upstream)).toEqual(["GET /v2/a/tags/list?n=100&last=v12"]);
  });

  it("asks once more for what comes after the last name, and is whole when nothing does", async () => {
    const { upstream, registry } = await tagsFor(["a", "b", "c"]);
    expect(foundIn(await registry.listTags("a", { limit: 10 }))).toEqual({ items: ["a", "b", "c"] });
    expect(seen(upstream)).toEqual(["GET /v2/a/tags/list?n=100", "GET /v2/a/tags/list?n=100&last=c"]);
  });

  it.each([1, 7, 99, 100, 250, 1000])("gives every tag once in ASCII order, %i at a time, from small pages", async (limit) => {
    const { registry } = await tagsFor(numbered, { pageSize: 30 });
    expect(await everything(registry, limit)).toEqual(ascii([...numbered]));
  });

  it.each([
    ["unsorted", (names: string[]) => names],
    ["sorted by its own rules", (names: string[]) => names.sort((a, b) => a.localeCompare(b, "en", { numeric: true }))],
  ])("sorts and slices what is %s and ignores n and last", async (_, order) => {
    const names = ["B", "a10", "a9", "C", "_", "b", "A", "a1", "1.0", "01"];
    const { upstream, registry } = await tagsFor(names);
    upstream.intercept = () => ({ body: JSON.stringify({ name: "a", tags: order([...names]) }) });
    for (const limit of [1, 3, 100]) expect(await everything(registry, limit)).toEqual(ascii([...names]));
  });

  it("drops what is no tag, and says so", async () => {
    const { upstream, registry } = await tagsFor(["x"]);
    upstream.intercept = () => ({ body: JSON.stringify({ tags: ["a", "../b", 7, null, "c\n", "d"] }) });
    const page = foundIn(await registry.listTags("a", { limit: 10 }));
    expect(page.items).toEqual(["a", "d"]);
    expect(page.warnings).toEqual([
      "4 names that are not valid were left out",
      "this list may not be complete: asked for what comes next, up gives the same tags of a again",
    ]);
  });

  it("hands on what the upstream warns of, without addresses", async () => {
    const { upstream, registry } = await tagsFor(["x"]);
    const warning = ['299 - "this list is \\"short\\": see https://inner/x"', '110 - "stale"', '299 registry "other"', '299 - "no end'];
    upstream.intercept = ({ url }) => (url.includes("last=") ? undefined : { headers: { warning } });
    expect(foundIn(await registry.listTags("a", { limit: 10 }))).toEqual({
      items: ["x"],
      warnings: ['up warns of this list: this list is "short": see (URL)'],
    });
    upstream.intercept = () => ({ headers: { warning: Array.from({ length: 400 }, (_, index) => `299 - "${index}"`).join(", ") } });
    expect(foundIn(await registry.listTags("a", { limit: 10 })).warnings).toHaveLength(50);
  });

  it("is empty for null, absent for 404, empty for a limit of 0", async () => {
    const { upstream, registry } = await tagsFor(["x"]);
    expect(foundIn(await registry.listTags("a", { limit: 0 }))).toEqual({ items: [] });
    expect((await registry.listTags("b", { limit: 10 })).kind).toBe("absent");
    upstream.intercept = () => ({ body: '{"name":"a","tags":null}' });
    expect(foundIn(await registry.listTags("a", { limit: 10 }))).toEqual({ items: [] });
  });

  it.each([
    ["a list of another kind", { body: '{"tags":{"a":1}}' }],
    ["no JSON", { body: "<html>" }],
    ["a broken body", { truncateAfter: 3 }],
  ])("is unavailable for %s", async (_, fault) => {
    const { upstream, registry } = await tagsFor(["x"]);
    upstream.intercept = () => fault;
    expect(errorOf(await registry.listTags("a", { limit: 100 })).code).toBe("UNAVAILABLE");
  });

  it("says for good that a page over 16 MiB is not read, and what the limit is", async () => {
    const { upstream, registry } = await tagsFor(["x"]);
    upstream.intercept = () => ({ body: Buffer.alloc(16 * 1024 * 1024 + 1, " ") });
    const lookup = await registry.listTags("a", { limit: 100 });
    expect(lookup).toMatchObject({
      kind: "denied",
      permanent: true,
      error: { status: 400, retryAfter: undefined, message: expect.stringContaining("16777216 bytes") },
    });
  });

  it("ends when pages repeat behind ever new links", async () => {
    const { upstream, registry } = await tagsFor(["x"]);
    let page = 0;
    upstream.intercept = () => ({ headers: { link: `</v2/a/tags/list?page=${++page}>; rel="next"` } });
    expect(foundIn(await registry.listTags("a", { limit: 100 })).items).toEqual(["x"]);
    expect(upstream.requests.length).toBeLessThan(6);
  });
});

describe("listRepositories", () => {
  it("pages the catalog", async () => {
    const upstream = await upstreamFor({ pageSize: 2 });
    for (const name of ["c", "a/b", "b"]) upstream.addImage(name, "1");
    const registry = remoteFor(upstream);
    expect(foundIn(await registry.listRepositories({ limit: 2 }))).toEqual({ items: ["a/b", "b"], next: "b" });
    expect(foundIn(await registry.listRepositories({ limit: 2, after: "b" }))).toEqual({ items: ["c"] });
  });

  it.each([401, 403, 404, 405])("is empty with a warning when refused with %i", async (status) => {
    const upstream = await upstreamFor();
    upstream.intercept = () => ({ status });
    const page = foundIn(await remoteFor(upstream).listRepositories({ limit: 10 }));
    expect(page).toEqual({ items: [], warnings: ["this list is not complete: up does not list its repositories"] });
  });

  it("is unavailable when the upstream is", async () => {
    const upstream = await upstreamFor();
    upstream.intercept = () => ({ status: 503 });
    expect((await remoteFor(upstream).listRepositories({ limit: 10 })).kind).toBe("unavailable");
  });
});

describe("the Link header", () => {
  const at = new URL("https://r.example/v2/a/tags/list?n=2");
  it.each([
    ['</v2/a/tags/list?n=2&last=b>; rel="next"', "https://r.example/v2/a/tags/list?n=2&last=b"],
    ["</v2/a/tags/list?last=b>; rel=next", "https://r.example/v2/a/tags/list?last=b"],
    ["<https://r.example/v2/x?next_page=abc>;REL=NEXT", "https://r.example/v2/x?next_page=abc"],
    ['<?last=b>; title="a, b"; rel="last next"', "https://r.example/v2/a/tags/list?last=b"],
    ['</first>; rel="first", </second>; rel="next"', "https://r.example/second"],
    ['</a,b;c>; rel="next"', "https://r.example/a,b;c"],
    ['</x>; rel="prev"', undefined],
    ['</x>, </y>; rel="next"', "https://r.example/y"],
    ["nonsense", undefined],
  ])("%s", (header, expected) => {
    expect(nextPage(header, at)?.href).toBe(expected);
  });

  it.each(["</x>", '</x>; title="next"', '</x>, </y>; rel="prev"'])("says that %s may lead on", (header) => {
    expect(() => nextPage(header, at)).toThrow("a link does not say whether it leads to the next page");
  });

  it("never leads to another origin, and never hangs", () => {
    for (const target of ["http://r.example/x", "https://r.example:444/x", "//evil.example/x", "https://u:p@r.example/x"]) {
      expect(() => nextPage(`<${target}>; rel=next`, at)).toThrow();
    }
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'</>;= "\\,rel next') }), (text) => {
        try {
          expect(nextPage(text, at)?.origin ?? at.origin).toBe(at.origin);
        } catch (error) {
          expect(String(error)).toContain("next page");
        }
      }),
    );
  });
});
