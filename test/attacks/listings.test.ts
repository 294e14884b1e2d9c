import { aggregate, allPages, localRegistry, orThrow, remoteRegistry } from "oci-manifold";
import { copyToLocal } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { type FakeUpstream, fakeUpstream } from "oci-manifold/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { protocols, type Stack, stack } from "./stack.js";

const numbered = (count: number) => Array.from({ length: count }, (_, at) => `v${String(at).padStart(5, "0")}`);
const inAscii = (names: readonly string[]) => [...names].sort((a, b) => (a < b ? -1 : 1));

interface Lister {
  /** In the upstream's order. */
  readonly names: readonly unknown[];
  /** The most names in one page, whatever is asked for. */
  readonly cap?: number;
  /** What `last` does. An answer: it is refused with that. */
  readonly last: "honoured" | "ignored" | "inclusive" | { readonly status: number; readonly body?: string };
}

/** Makes an upstream page without a Link header. */
function withoutLinks(upstream: FakeUpstream, { names, cap = 10_000, last }: Lister): void {
  upstream.intercept = ({ url }) => {
    const asked = new URL(url, upstream.url);
    const [, field] = /\/(?:(tags)\/list|_catalog)$/.exec(asked.pathname) ?? [];
    if (!asked.pathname.endsWith("/_catalog") && field === undefined) return undefined;
    const after = asked.searchParams.get("last");
    if (after !== null && typeof last === "object") return { headers: { link: undefined }, body: "", ...last };
    const at = after === null || last === "ignored" ? 0 : names.indexOf(after) + (last === "inclusive" ? 0 : 1);
    const page = names.slice(at, at + Math.min(cap, Number(asked.searchParams.get("n"))));
    return { status: 200, headers: { link: undefined }, body: JSON.stringify({ [field ?? "repositories"]: page }) };
  };
}

/** Follows Link to the end, as crane does. */
async function everything(ask: Stack["ask"], path: string, field: "tags" | "repositories" = "tags") {
  const names: string[] = [];
  const warnings = new Set<string>();
  const statuses = new Set<number>();
  for (let next: string | undefined = path; next !== undefined; ) {
    const { status, headers, body }: Awaited<ReturnType<Stack["ask"]>> = await ask("GET", next);
    statuses.add(status);
    if (status === 200) names.push(...((JSON.parse(body.toString()) as Record<string, string[] | undefined>)[field] ?? []));
    for (const [, text = ""] of (headers.warning ?? "").matchAll(/299 - "((?:[^"\\]|\\.)*)"/g)) warnings.add(text);
    next = /<([^>]+)>; rel="next"/.exec(headers.link ?? "")?.[1];
  }
  return { names, warnings: [...warnings], statuses: [...statuses] };
}

const tagsOf = ["/v2/hub/many/tags/list", "/v2/prerelease/many/tags/list"];

describe.each(protocols)("an upstream that pages without a Link, over %s", (protocol) => {
  test.each([
    { upstream: "pages as it is asked to", cap: undefined, names: numbered(2500) },
    { upstream: "has small pages", cap: 100, names: numbered(250) },
    { upstream: "sorts by other rules", cap: 100, names: [...numbered(250).reverse(), "Z", "latest", "a"] },
    { upstream: "has a full last page", cap: 50, names: numbered(200) },
  ])("is listed in full by a client that follows links, when it $upstream", async ({ cap, names }) => {
    const { upstream, ask } = await stack({ front: protocol });
    upstream.addImage("many", "v00000");
    withoutLinks(upstream, { names, last: "honoured", ...(cap && { cap }) });
    for (const path of tagsOf) {
      for (const query of ["", "?n=70"]) {
        expect(await everything(ask, `${path}${query}`)).toEqual({ names: inAscii(names), warnings: [], statuses: [200] });
      }
    }
  });

  test("loses no repository of its catalog", async () => {
    const { upstream, ask } = await stack({ front: protocol });
    const names = numbered(250).map((name) => `team/${name}`);
    withoutLinks(upstream, { names, cap: 100, last: "honoured" });
    expect(await everything(ask, "/v2/_catalog", "repositories")).toEqual({
      names: inAscii(names.flatMap((name) => [`hub/${name}`, `prerelease/${name}`])),
      warnings: [],
      statuses: [200],
    });
  });

  test("loses nothing behind a page of names that are not valid here", async () => {
    const { upstream, ask } = await stack({ front: protocol });
    const names = [...numbered(100), ...numbered(150).map((name) => `not a tag ${name}`), "w"];
    upstream.addImage("many", "w");
    withoutLinks(upstream, { names, cap: 50, last: "honoured" });
    for (const path of tagsOf) {
      expect(await everything(ask, path)).toEqual({
        names: [...numbered(100), "w"],
        warnings: ["150 names that are not valid were left out"],
        statuses: [200],
      });
    }
  });

  test.each([
    { upstream: "gives all at once and ignores what it is asked", names: numbered(300), last: "ignored", listed: 300 },
    { upstream: "gives a part and ignores what comes after it", names: numbered(300), cap: 100, last: "ignored", listed: 100 },
    { upstream: "ignores it and sorts by other rules", names: ["b", "B", "a10", "a9"], last: "ignored", listed: 4 },
    { upstream: "counts the last name in", names: numbered(250), cap: 100, last: "inclusive", listed: 250 },
  ] as const)("is listed with a warning when it brings nothing new: it $upstream", async ({ names, listed, last, ...o }) => {
    const { upstream, ask } = await stack({ front: protocol, handler: { showTopology: true } });
    upstream.addImage("many", "v00000");
    withoutLinks(upstream, { names, last, ...o });
    for (const path of tagsOf) {
      const got = await everything(ask, path);
      expect(got).toMatchObject({ names: inAscii(names).slice(0, listed), statuses: [200] });
      expect(got.warnings).toEqual([
        expect.stringMatching(/^this list may not be complete: asked for what comes next, .* gives the same tags/),
      ]);
    }
    // Whatever a page costs, it does not go on for ever.
    expect(upstream.requests.length).toBeLessThan(30);
  });

  test.each([
    { says: "404", answer: { status: 404 } },
    { says: "400", answer: { status: 400 } },
    { says: "403", answer: { status: 403 } },
    { says: "a page for people", answer: { status: 200, body: "<html>" } },
  ])("keeps what it has given when it answers $says to what comes next", async ({ answer }) => {
    const { upstream, ask } = await stack({ front: protocol, handler: { showTopology: true } });
    upstream.addImage("many", "v00000");
    withoutLinks(upstream, { names: numbered(250), cap: 100, last: answer });
    for (const path of tagsOf) {
      const { names, warnings, statuses } = await everything(ask, path);
      expect([names, statuses]).toEqual([numbered(100), [200]]);
      expect(warnings).toEqual([expect.stringMatching(/^this list may not be complete: what comes after \\"v00099\\" could not be had: /)]);
    }
  });
});

test("an order that breaks on a later page is told, and known from then on", async () => {
  // Sorted without regard to case: Z comes last, and would have been the first.
  const names = [...numbered(250), "Z"];
  const { upstream, ask } = await stack();
  upstream.addImage("many", "Z");
  withoutLinks(upstream, { names, cap: 100, last: "honoured" });
  const first = await everything(ask, "/v2/hub/many/tags/list?n=100");
  expect(first.names).toEqual(numbered(250));
  expect(first.warnings).toEqual(["earlier pages of this list may lack names, so list again from the beginning"]);
  expect(await everything(ask, "/v2/hub/many/tags/list?n=90")).toEqual({ names: ["Z", ...numbered(250)], warnings: [], statuses: [200] });
});

test("a process that did not give the first page does not take another order for ours", async () => {
  const { upstream, ask } = await stack();
  upstream.addImage("many", "Z");
  withoutLinks(upstream, { names: ["a", "B", "c", "Z"], last: "honoured" });
  expect((await everything(ask, "/v2/hub/many/tags/list?last=Z")).names).toEqual(["a", "c"]);
});

describe("pin of a connector", () => {
  async function pinned(
    names: readonly string[],
    lister: Omit<Lister, "names">,
    spoil: (tag: string) => { status: number; body?: string } | undefined,
  ) {
    const upstream = await fakeUpstream();
    onTestFinished(() => upstream.close());
    for (const name of names) upstream.addImage("many", name, { layers: [10] });
    withoutLinks(upstream, { ...lister, names });
    const list = upstream.intercept;
    upstream.intercept = (request) => {
      if (request.url.includes("/_catalog"))
        return { body: JSON.stringify({ repositories: request.url.includes("last=") ? [] : ["many"] }) };
      return spoil(/\/manifests\/(v\d+)$/.exec(request.url)?.[1] ?? "") ?? list?.(request);
    };
    const source = remoteRegistry(upstream.url, { name: "up", retries: 0, breaker: false });
    const local = localRegistry({ storage: memoryStorage(), name: "all" });
    const all = aggregate({ local, connectors: [{ name: "up", source }] });
    await all.ready();
    onTestFinished(() => all.close());
    const report = await copyToLocal(all, { connector: "up" });
    const here: string[] = [];
    for await (const tag of allPages(async (page) => orThrow(await local.listTags("many", page)))) here.push(tag);
    return { report, here };
  }

  test("brings every tag of an upstream that pages without a Link", async () => {
    const { report, here } = await pinned(numbered(120), { cap: 50, last: "honoured" }, () => undefined);
    expect(here).toEqual(numbered(120));
    expect(report).toMatchObject({ complete: true, failed: [], warnings: [] });
  });

  test("is not complete where a list of tags may lack some", async () => {
    const { report, here } = await pinned(numbered(120), { cap: 50, last: { status: 400 } }, () => undefined);
    expect(here).toEqual(numbered(50));
    expect(report).toMatchObject({ complete: false, failed: [] });
    expect(report.warnings).toEqual([expect.stringMatching(/^this list may not be complete: what comes after "v00049"/)]);
  });

  test.each([
    { that: "is not there", answer: { status: 404 } },
    { that: "is refused", answer: { status: 403 } },
    { that: "fails", answer: { status: 500 } },
    { that: "is no manifest", answer: { status: 200, body: "{}" } },
  ])("records each tag that $that, brings the others and is not complete", async ({ answer }) => {
    const bad = new Set(["v00000", "v00002", "v00004"]);
    const { report, here } = await pinned(numbered(5), { last: "honoured" }, (tag) => (bad.has(tag) ? answer : undefined));
    expect(here).toEqual(["v00001", "v00003"]);
    expect(report.complete).toBe(false);
    expect(report.failed.map(({ repository, tag }) => [repository, tag])).toEqual([...bad].map((tag) => ["many", tag]));
    for (const { why } of report.failed) expect(why).not.toBe("");
  });
});
