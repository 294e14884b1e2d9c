import fc from "fast-check";
import { localRegistry, type NameMapping, orThrow, renamed } from "oci-manifold";
import type { StoringRegistry } from "oci-manifold/extend";
import { chained, dockerLibrary, nameTable, prefixed, stripped } from "oci-manifold/names";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";

const segment = fc.constantFrom("a", "b", "library", "hub", "team", "a-b");
const name = fc.array(segment, { minLength: 1, maxLength: 3 }).map((parts) => parts.join("/"));
const table = fc.uniqueArray(fc.tuple(name, name), { selector: ([ours]) => ours, maxLength: 4 }).map((pairs) => {
  const seen = new Set<string>();
  return nameTable(Object.fromEntries(pairs.filter(([, theirs]) => !seen.has(theirs) && seen.add(theirs))));
});
const single: fc.Arbitrary<NameMapping> = fc.oneof(
  name.map((prefix) => prefixed(`${prefix}/`)),
  name.map((prefix) => stripped(`${prefix}/`)),
  table,
  fc.constant(dockerLibrary()),
);
const anyMapping = fc.oneof(
  single,
  fc.array(single, { maxLength: 3 }).map((mappings) => chained(...mappings)),
);

test("what is shown under our name is found under it", () => {
  fc.assert(
    fc.property(anyMapping, name, (names, theirs) => {
      const ours = names.fromSource(theirs);
      if (ours !== undefined) expect(names.toSource(ours)).toBe(theirs);
    }),
    { numRuns: 2000 },
  );
});

test("prefixes say what the mapping does", () => {
  fc.assert(
    fc.property(anyMapping, name, ({ prefixes, fromSource }, theirs) => {
      if (!prefixes) return;
      const below = theirs.startsWith(prefixes.theirs) && theirs.length > prefixes.theirs.length;
      expect(fromSource(theirs)).toBe(below ? prefixes.ours + theirs.slice(prefixes.theirs.length) : undefined);
    }),
    { numRuns: 2000 },
  );
});

test("two names for one repository, and malformed ones, are refused", () => {
  expect(() => nameTable({ a: "x", b: "x" })).toThrow(expect.objectContaining({ code: "NAME_INVALID" }));
  expect(() => nameTable({ A: "x" })).toThrow(expect.objectContaining({ code: "NAME_INVALID" }));
});

test("Docker Hub's official images have short names, and are found under their full ones too", async () => {
  const registry = localRegistry({ storage: memoryStorage(), name: "hub" });
  const image = await pushImage(registry, "library/node", "22");
  const names = chained(prefixed("hub/"), dockerLibrary());
  const view = renamed(registry, names);
  for (const ours of ["hub/node", "hub/library/node"]) expect(orThrow(await view.resolveManifest(ours, "22")).digest).toBe(image.digest);
  expect((await view.resolveManifest("node", "22")).kind).toBe("absent");
  expect(orThrow(await view.listRepositories({ limit: 10 }))).toEqual({ items: ["hub/node"] });
  expect(view.canonicalName?.("hub/library/node")).toBe("hub/node");
});

async function catalogOf(names: readonly string[]): Promise<StoringRegistry> {
  const registry = localRegistry({ storage: memoryStorage(), name: "r" });
  for (const each of names) await registry.putManifest(each, "1", { bytes: index });
  return registry;
}
const index = Buffer.from('{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}');

test("a renamed catalog is complete, in order and exact on every page", async () => {
  await fc.assert(
    fc.asyncProperty(
      anyMapping,
      fc.uniqueArray(name, { maxLength: 12 }),
      fc.integer({ min: 1, max: 4 }),
      async (names, repositories, limit) => {
        const view = renamed(await catalogOf(repositories), names);
        const expected = repositories.flatMap((theirs) => names.fromSource(theirs) ?? []).sort();
        const listed: string[] = [];
        let after: string | undefined;
        do {
          const page = orThrow(await view.listRepositories({ limit, ...(after !== undefined && { after }) }));
          expect(page.items.length).toBeLessThanOrEqual(limit);
          listed.push(...page.items);
          after = page.next;
        } while (after !== undefined);
        expect(listed).toEqual(expected);
        for (const start of [...expected, "a", "hub/zzz", "zzz"]) {
          const { items } = orThrow(await view.listRepositories({ limit: 100, after: start }));
          expect(items).toEqual(expected.filter((each) => each > start));
        }
      },
    ),
    { numRuns: 150 },
  );
});

test("under a prefix one page costs one page, without one the catalog is read once", async () => {
  const { registry, calls } = spied(await catalogOf(["library/a", "library/b", "library/c", "z/d"]));
  const below = renamed(registry, chained(prefixed("hub/"), stripped("library/")));
  expect(orThrow(await below.listRepositories({ limit: 2 }))).toEqual({ items: ["hub/a", "hub/b"], next: "hub/b" });
  expect(orThrow(await below.listRepositories({ limit: 2, after: "hub/b" }))).toMatchObject({ items: ["hub/c"] });
  expect(calls).toEqual(["listRepositories", "listRepositories"]);
  expect(orThrow(await below.listRepositories({ limit: 2, after: "zoo" }))).toEqual({ items: [] });
  calls.length = 0;
  const short = renamed(registry, dockerLibrary());
  expect(orThrow(await short.listRepositories({ limit: 2 }))).toEqual({ items: ["a", "b"], next: "b" });
  expect(orThrow(await short.listRepositories({ limit: 2, after: "b" }))).toEqual({ items: ["c", "z/d"] });
  expect(calls).toEqual(["listRepositories"]);
});
