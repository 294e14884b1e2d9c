import fc from "fast-check";
import {
  aggregate,
  filtered,
  type Lookup,
  localRegistry,
  orThrow,
  type Page,
  type PageRequest,
  type Registry,
  RegistryError,
} from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { mergePages } from "../../src/views/merge-pages.js";

/** A page of sorted names, as any member gives it. */
function pageOf(names: readonly string[], { after, limit }: PageRequest): Page<string> {
  const start = after === undefined ? 0 : names.findIndex((name) => name > after);
  const items = start < 0 ? [] : names.slice(start, start + limit);
  const next = start >= 0 && start + limit < names.length ? items.at(-1) : undefined;
  return { items, ...(next !== undefined && { next }) };
}
const answer = (page: Page<string>): Lookup<Page<string>> => ({ kind: "found", value: page, served: { member: ["m"] } });

function listing(tags: (request: PageRequest) => Promise<Lookup<Page<string>>>): Registry {
  const empty = localRegistry({ storage: memoryStorage(), name: "empty" });
  const { identity: _, ...rest } = empty;
  return { ...rest, listTags: (_repository, request) => tags(request), listRepositories: (request) => tags(request) };
}

async function walk(list: (request: PageRequest) => Promise<Lookup<Page<string>>>, limit: number) {
  const pages: Page<string>[] = [];
  let after: string | undefined;
  do {
    const page: Page<string> = orThrow(await list({ limit, ...(after !== undefined && { after }) }));
    expect(page.items.length).toBeLessThanOrEqual(limit);
    if (after !== undefined && page.next !== undefined) expect(page.next > after).toBe(true);
    pages.push(page);
    after = page.next;
  } while (after !== undefined);
  return { pages, items: pages.flatMap((page) => page.items) };
}

test("ten members with 100,000 tags each are paged through at one page per member", async () => {
  const most = { handed: 0, calls: 0 };
  let handed = 0;
  let calls = 0;
  const members = Array.from({ length: 10 }, (_, member) => {
    const tags = Array.from({ length: 100_000 }, (_, at) => `t${String(at * 7 + (member % 7)).padStart(7, "0")}`);
    const indexAfter = (after: string) => Math.ceil((Number(after.slice(1)) + 1 - (member % 7)) / 7);
    return listing(async ({ after, limit }) => {
      const start = after === undefined ? 0 : Math.max(0, indexAfter(after));
      const items = tags.slice(start, start + limit);
      calls++;
      handed += items.length;
      const next = start + limit < tags.length ? items.at(-1) : undefined;
      return answer({ items, ...(next !== undefined && { next }) });
    });
  });
  const all = aggregate({
    local: localRegistry({ storage: memoryStorage(), name: "all" }),
    connectors: members.map((source, index) => ({ name: `m${index}`, source })),
  });
  const { items } = await walk(async (request) => {
    [handed, calls] = [0, 0];
    const lookup = await all.listTags("app", request);
    most.handed = Math.max(most.handed, handed);
    most.calls = Math.max(most.calls, calls);
    return lookup;
  }, 1000);
  expect(items).toHaveLength(700_000);
  expect(items.every((item, index) => index === 0 || item > (items[index - 1] ?? ""))).toBe(true);
  expect(most).toEqual({ handed: 10_000, calls: 10 });
});

const names = fc
  .uniqueArray(fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 3 }), { maxLength: 12 })
  .map((list) => list.sort());

test("merged pages are the sorted union, each page exact", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(names, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 5 }), async (members, limit) => {
      const union = [...new Set(members.flat())].sort();
      const list = async (request: PageRequest) =>
        mergePages(
          members.map((tags, index) => ({ member: `m${index}`, lookup: answer(pageOf(tags, request)) })),
          request.limit,
          (item) => item,
          { member: [] },
        );
      const { pages, items } = await walk(list, limit);
      expect(items).toEqual(union);
      // Full but for the last: no member hides anything.
      for (const page of pages.slice(0, -1)) expect(page.items).toHaveLength(limit);
      for (const after of union)
        expect(orThrow(await list({ after, limit })).items).toEqual(union.filter((tag) => tag > after).slice(0, limit));
    }),
  );
});

test("members that are filtered are merged just as exactly", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(names, { minLength: 1, maxLength: 3 }), fc.integer({ min: 1, max: 3 }), async (members, limit) => {
      const sources = members.map((tags) => listing(async (request) => answer(pageOf(tags, request))));
      const views = sources.map((source) => filtered(source, { block: ["app:*b*"] }));
      const list = async (request: PageRequest) => {
        const parts = await Promise.all(
          views.map(async (view, index) => ({ member: `m${index}`, lookup: await view.listTags("app", request) })),
        );
        return mergePages(parts, request.limit, (item) => item, { member: [] });
      };
      expect((await walk(list, limit)).items).toEqual([...new Set(members.flat())].filter((tag) => !tag.includes("b")).sort());
    }),
  );
});

test("a member that cannot list is told in a warning, and one out of order is sorted", () => {
  const merged = mergePages(
    [
      { member: "down", lookup: { kind: "unavailable", error: new RegistryError("UNAVAILABLE", "is down") } },
      { member: "wild", lookup: answer({ items: ["c", "a"] }) },
      { member: "tidy", lookup: answer({ items: ["b"], warnings: ["not all"] }) },
    ],
    10,
    (item) => item,
    { member: [] },
  );
  expect(orThrow(merged)).toEqual({
    items: ["a", "b", "c"],
    warnings: ["this list is not complete: down could not be listed: is down", "not all"],
  });
});

test("where almost all is hidden, pages are full and never go on from a hidden name", async () => {
  const tags = Array.from({ length: 50_000 }, (_, at) => `t${String(at).padStart(5, "0")}`);
  let calls = 0;
  const source = listing(async (request) => {
    calls++;
    return answer(pageOf(tags, request));
  });
  const view = filtered(source, { allow: ["app:t*99", "app:t49*"] });
  const first = orThrow(await view.listTags("app", { limit: 10 }));
  expect(first.items).toHaveLength(10);
  expect(first.next).toBe(first.items.at(-1));
  expect(calls).toBeLessThan(4);
  const { items, pages } = await walk((request) => view.listTags("app", request), 100);
  expect(items).toEqual(tags.filter((tag) => tag.endsWith("99") || tag.startsWith("t49")));
  expect(pages).toHaveLength(Math.ceil(items.length / 100));
});
