import { deepEqual, equal } from "node:assert/strict";
import type { Lookup } from "../core/lookup.js";
import { allPages, type Page, type PageRequest } from "../core/page.js";
import {
  imageOf,
  pushBlobs,
  pushImage,
  type RegistryCapabilities,
  type RegistryCase,
  type RegistryOnTest,
  valueFrom,
} from "./registry-fixtures.js";

/** Every kind of character that names and tags may have, so that an order other than ASCII's shows. */
const tags = ["B", "_x", "a", "a-1", "a.1", "a0", "aa", "b", "1", "1.10", "1.9", "latest"];
const repositories = ["app", "app-2", "app.2", "app/z", "app0", "apple", "b/c/d", "zoo"];

async function pushTags({ seed, at }: RegistryOnTest, repository: string): Promise<void> {
  const image = imageOf({ layers: [10] });
  await pushBlobs(seed, at(repository), image);
  for (const tag of tags) await seed.putManifest(at(repository), tag, { bytes: image.bytes });
}

/** Pages of each size, and from each place: what a client may do with any listing. */
async function pages(list: (page: PageRequest) => Promise<Lookup<Page<string>>>, expected: readonly string[]): Promise<void> {
  deepEqual(valueFrom(await list({ limit: 1000 })).items, expected);
  for (let limit = 1; limit <= expected.length; limit++) {
    const listed: string[] = [];
    for await (const item of allPages(async (page) => valueFrom(await list(page)), limit)) listed.push(item);
    deepEqual(listed, expected, `in pages of ${limit}`);
    const { items, next } = valueFrom(await list({ limit }));
    deepEqual(items, expected.slice(0, limit));
    equal(next, limit < expected.length ? items.at(-1) : undefined);
  }
  for (const [index, name] of expected.entries()) {
    deepEqual(valueFrom(await list({ limit: 1000, after: name })).items, expected.slice(index + 1));
  }
}

export function listingCases(contract: RegistryCase, { catalog }: RegistryCapabilities): void {
  contract("tags come in ASCII order, in pages that go on from one to the next", async (on) => {
    await pushTags(on, "app");
    await pushTags(on, "app-2");
    await pages((page) => on.registry.listTags(on.at("app"), page), [...tags].sort());
  });
  contract("a listing goes on after a name that is not there", async (on) => {
    await pushTags(on, "app");
    const sorted = [...tags].sort();
    for (const after of ["0", "a-", "aaa", "zzz"]) {
      const { items, next } = valueFrom(await on.registry.listTags(on.at("app"), { limit: 1000, after }));
      deepEqual({ items, next }, { items: sorted.filter((tag) => tag > after), next: undefined });
    }
  });
  contract("a page of no names is empty, and the last", async (on) => {
    await pushTags(on, "app");
    const { items, next } = valueFrom(await on.registry.listTags(on.at("app"), { limit: 0 }));
    deepEqual({ items, next }, { items: [], next: undefined });
  });
  contract("the tags of an unknown repository are absent", async ({ registry, seed, at }) => {
    await pushImage(seed, at("app/x"), "1");
    equal((await registry.listTags(at("app"), { limit: 10 })).kind, "absent");
    equal((await registry.listTags(at("app/x/y"), { limit: 10 })).kind, "absent");
  });
  contract("a repository without tags lists none, and is there", async ({ registry, seed, at }) => {
    await pushImage(seed, at("app"));
    deepEqual(valueFrom(await registry.listTags(at("app"), { limit: 10 })).items, []);
  });
  if (catalog) catalogCases(contract);
  else {
    contract("a catalog that is not had is an empty page or a refusal, and no throw", async ({ registry, seed, at }) => {
      await pushImage(seed, at("app"), "1");
      const lookup = await registry.listRepositories({ limit: 10 });
      if (lookup.kind === "found") deepEqual(lookup.value.items, []);
    });
  }
}

function catalogCases(contract: RegistryCase): void {
  contract("repositories come in ASCII order, in pages that go on from one to the next", async ({ registry, seed, at }) => {
    const image = imageOf({ layers: [10] });
    for (const repository of repositories) await pushImage(seed, at(repository), "1", image);
    const canonical = repositories.map(at).map((name) => registry.canonicalName?.(name) ?? name);
    await pages((page) => registry.listRepositories(page), canonical.sort());
  });
  contract("a page of no repositories is empty, and the last", async ({ registry, seed, at }) => {
    await pushImage(seed, at("app"), "1");
    const { items, next } = valueFrom(await registry.listRepositories({ limit: 0 }));
    deepEqual({ items, next }, { items: [], next: undefined });
  });
  contract("the catalog of nothing is an empty page", async ({ registry }) => {
    deepEqual(valueFrom(await registry.listRepositories({ limit: 10 })).items, []);
  });
}
