import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { aggregate, allPages, type Connector, localRegistry, orThrow, RegistryError } from "oci-manifold";
import { dockerHubSearch, harborSearch, quaySearch, type SearchSource, searchable } from "oci-manifold/extend";
import { prefixed } from "oci-manifold/names";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { connect, UseCount } from "../../src/aggregate/members.js";
import { knownListing, type SearchParts, search } from "../../src/aggregate/search.js";
import { found } from "../../src/core/lookup.js";
import { pushImage } from "../fixtures/images.js";
import { eventually } from "../fixtures/read.js";

/** A service that answers as it is told, and the URLs it was asked for. */
async function service(answer: (url: URL, request: IncomingMessage) => { status?: number; body: unknown }) {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? "");
    const { status = 200, body } = answer(new URL(request.url ?? "", "http://x"), request);
    response.writeHead(status, { "content-type": "application/json" }).end(typeof body === "string" ? body : JSON.stringify(body));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

const made = (name: string) => localRegistry({ storage: memoryStorage(), name });

function partsFor(connectors: readonly Connector[], o: { local?: ReturnType<typeof made>; reserved?: string } = {}): SearchParts {
  const local = o.local ?? made("all");
  const members = connect(local, connectors, { hop: "all", useCount: new UseCount() });
  return { local, index: local.nameIndex(), members, isReserved: (name) => name === o.reserved };
}

describe("services", () => {
  test("Docker Hub: official images are below library, pages go on by number", async () => {
    const { url, asked } = await service(({ searchParams }) => ({
      body: {
        count: 2,
        next: searchParams.get("page") === "1" ? "https://hub.docker.com/v2/search/repositories/?page=2" : "",
        previous: "",
        results: [
          {
            repo_name: "redis",
            short_description: "A store",
            star_count: 13000,
            pull_count: 1,
            repo_owner: "",
            is_automated: false,
            is_official: true,
          },
          { repo_name: "bitnami/redis", short_description: "", star_count: 300, is_official: false },
          { unexpected: true },
        ],
      },
    }));
    const find = dockerHubSearch({ url });
    expect(orThrow(await find("red is", { limit: 1000 }))).toEqual({
      items: [
        { repository: "library/redis", description: "A store", stars: 13000 },
        { repository: "bitnami/redis", stars: 300 },
      ],
      next: "2",
    });
    expect(orThrow(await find("redis", { limit: 5, after: "2" })).next).toBeUndefined();
    expect(asked).toEqual([
      "/v2/search/repositories/?query=red+is&page=1&page_size=100",
      "/v2/search/repositories/?query=redis&page=2&page_size=5",
    ]);
  });

  test("Quay", async () => {
    const { url, asked } = await service((_, { headers }) => ({
      body: {
        results: [
          {
            kind: "repository",
            namespace: { kind: "organization", name: "prometheus" },
            name: "node-exporter",
            description: "Exports",
            stars: 7,
            is_public: true,
          },
        ],
        has_additional: headers.authorization === "Bearer t",
        page: 1,
      },
    }));
    expect(orThrow(await quaySearch({ url })("node", { limit: 10 }))).toEqual({
      items: [{ repository: "prometheus/node-exporter", description: "Exports", stars: 7 }],
    });
    expect(orThrow(await quaySearch({ url, authorization: async () => "Bearer t" })("node", { limit: 10 })).next).toBe("2");
    expect(asked[0]).toBe("/api/v1/find/repositories?query=node&page=1");
  });

  test("Harbor, all in one answer", async () => {
    const repository = ["z/app", "a/app", "m/app"].map((repository_name) => ({
      project_id: 1,
      project_name: "x",
      repository_name,
      pull_count: 3,
      artifact_count: 1,
    }));
    const { url, asked } = await service(() => ({ body: { project: [], repository } }));
    const find = harborSearch({ url });
    const seen: string[] = [];
    for await (const one of allPages(async (page) => orThrow(await find("app", page)), 2)) seen.push(one.repository);
    expect(seen).toEqual(["a/app", "m/app", "z/app"]);
    expect(asked[0]).toBe("/api/v2.0/search?q=app");
  });

  test.each([
    [429, "{}", "unavailable", "TOOMANYREQUESTS"],
    [401, "{}", "denied", "DENIED"],
    [500, "{}", "unavailable", "UNAVAILABLE"],
    [200, "<html>", "unavailable", "UNAVAILABLE"],
    [200, "[]", "found", undefined],
  ])("that answer %i %s", async (status, body, kind, code) => {
    const { url } = await service(() => ({ status, body: body === "[]" ? { results: "none" } : body }));
    const lookup = await dockerHubSearch({ url })("x", { limit: 5 });
    expect(lookup.kind).toBe(kind);
    if (lookup.kind === "denied" || lookup.kind === "unavailable") expect(lookup.error.code).toBe(code);
  });
});

describe("search", () => {
  test("finds what is here, what members list and what their services say, under our names and filters", async () => {
    const [local, release] = [made("all"), made("release")];
    await pushImage(local, "team/node-app", "1");
    await pushImage(release, "node-tools", "1");
    await pushImage(release, "secret/node", "1");
    const service: SearchSource = async () => ({
      kind: "found",
      value: { items: [{ repository: "library/node", stars: 5, description: "JavaScript" }, { repository: "evil/node" }], next: "2" },
      served: { member: [] },
    });
    const hub = searchable(made("hub"), service);
    const parts = partsFor(
      [
        { name: "release", source: release, block: ["secret/**"] },
        { name: "hub", source: hub, rename: prefixed("hub/"), allow: ["library/**"] },
        { name: "links", source: made("links"), reach: "links" },
      ],
      { local },
    );
    const page = await search(parts, "NODE", { limit: 10 });
    expect(page.items).toEqual([
      { repository: "hub/library/node", member: "hub", cached: false, stars: 5, description: "JavaScript" },
      { repository: "node-tools", member: "release" },
      { repository: "team/node-app", member: "local", cached: true },
    ]);
    expect(page.warnings).toEqual([expect.stringContaining("hub has more results")]);
    const seen: string[] = [];
    for await (const one of allPages((request) => search(parts, "node", request), 1)) seen.push(one.repository);
    expect(seen).toEqual(["hub/library/node", "node-tools", "team/node-app"]);
    // What was listed is remembered, and found when the member is down.
    release.listRepositories = async () => ({ kind: "unavailable", error: Object.assign(new Error("down")) as never });
    const later = await search(parts, "node-tools", { limit: 10 });
    expect(later.items).toContainEqual(expect.objectContaining({ repository: "node-tools", member: "release" }));
    expect(later.warnings).toContain("release could not be searched: down");
  });

  test("finds what a member that cannot list has served", async () => {
    const source = made("hub");
    source.listRepositories = async () => ({
      kind: "found",
      value: { items: [], warnings: ["docker.io does not list its repositories"] },
      served: { member: [] },
    });
    const parts = partsFor([{ name: "hub", source, allow: ["library/**"] }]);
    await parts.index.note("hub", ["library/node", "hidden/node", "../x"]);
    await parts.index.note("gone", ["library/node-old"]);
    const page = await search(parts, "node", { limit: 10 });
    expect(page.items).toEqual([{ repository: "library/node", member: "hub", cached: false }]);
    expect(page.warnings).toEqual([
      expect.stringContaining("docker.io does not list its repositories; what it does not list is found only where it was served before"),
    ]);
  });
});

describe("names that were served", () => {
  test("are one part of the catalog, paged, without what is hidden, reserved or of a connector that is gone", async () => {
    const parts = partsFor([{ name: "hub", source: made("hub"), allow: ["library/**"] }], { reserved: "library/internal" });
    await parts.index.note("hub", ["library/a", "library/b", "library/internal", "other/x", "library/c"]);
    await parts.index.note("gone", ["library/d"]);
    const seen: string[] = [];
    for await (const name of allPages(async (page) => orThrow((await knownListing(parts, page)).lookup), 1)) seen.push(name);
    expect(seen).toEqual(["library/a", "library/b", "library/c"]);
    const ruled = partsFor([{ name: "hub", source: made("hub"), permit: ({ repository }) => repository === "library/a" }]);
    await ruled.index.note("hub", ["library/a", "library/b"]);
    expect(orThrow((await knownListing(ruled, { limit: 10 })).lookup).items).toEqual(["library/a"]);
  });

  test("are written when they are new, of another member, or a day old", async () => {
    const clock = fakeClock();
    const storage = memoryStorage();
    let commits = 0;
    const { commit } = storage.metadata;
    let fails = false;
    storage.metadata.commit = async (conditions, changes) => {
      commits++;
      if (fails) throw new RegistryError("UNAVAILABLE", "the database is away");
      return commit.call(storage.metadata, conditions, changes);
    };
    const index = localRegistry({ storage, name: "all", clock }).nameIndex();
    const again = localRegistry({ storage, name: "all", clock }).nameIndex();
    for (let times = 0; times < 100; times++) await index.note("hub", ["library/node"]);
    await again.note("hub", ["library/node"]);
    expect(commits).toBe(1);
    await index.note("quay", ["library/node"]);
    expect(commits).toBe(2);
    await clock.advance(24 * 3_600_000);
    await index.note("quay", ["library/node"]);
    expect(commits).toBe(3);
    expect((await index.list({ limit: 10 })).items).toEqual([{ repository: "library/node", member: "quay", lastSeenAt: clock.now() }]);
    // Two members that both have the name do not write over each other with every request.
    for (let times = 0; times < 100; times++) for (const member of ["hub", "quay"]) await index.note(member, ["library/node"]);
    expect(commits).toBe(4);
    fails = true;
    await expect(index.note("hub", ["library/alpine"])).rejects.toThrow("away");
    fails = false;
    await index.note("hub", ["library/alpine"]);
    expect((await index.list({ limit: 10 })).items).toHaveLength(2);
  });
});

describe("an aggregate", () => {
  test("lists and finds what a connector that cannot list has served, also by digest and after a restart", async () => {
    const source = made("hub");
    await pushImage(source, "library/node", "22");
    const other = await pushImage(source, "library/alpine", "3");
    source.listRepositories = async () => found({ items: [] }, { member: [] });
    const local = made("all");
    const make = () => aggregate({ local, connectors: [{ name: "hub", source, rename: prefixed("hub/") }] });
    const all = make();
    const names = async (registry = all) => orThrow(await registry.listRepositories({ limit: 10 })).items;
    expect(await names()).toEqual([]);
    orThrow(await all.getManifest("hub/library/node", "22"));
    orThrow(await all.getManifest("hub/library/alpine", other.digest));
    await eventually(async () => (await names()).length === 2, "both are noted");
    expect(await names(make())).toEqual(["hub/library/alpine", "hub/library/node"]);
    expect((await make().search("node", { limit: 10 })).items).toEqual([{ repository: "hub/library/node", member: "hub", cached: false }]);
    // Nobody who answers: what was once seen does not hide it.
    const down = { kind: "unavailable", error: new RegistryError("UNAVAILABLE", "down") } as const;
    source.listRepositories = async () => down;
    const listing = local.listRepositories;
    local.listRepositories = async () => down;
    expect((await all.listRepositories({ limit: 10 })).kind).toBe("unavailable");
    local.listRepositories = listing;
  });
});
