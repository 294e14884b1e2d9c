import {
  type AggregateRegistry,
  aggregate,
  cached,
  isRegistryError,
  type Lookup,
  localRegistry,
  orThrow,
  type Registry,
  RegistryError,
  type RemoteOptions,
  remoteRegistry,
} from "oci-manifold";
import { digestOf, viaHeader } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { listening, type Site, site } from "../http/support.js";
import { readAll } from "../remote/support.js";
import { store } from "./support.js";

const unknown = digestOf(Buffer.from("x"));
const page = { limit: 10 };
const clock = fakeClock();

const cache = (source: Registry, name = "cache") => cached(source, { storage: memoryStorage(), name, clock });

/** Each shows the next, behind a cache of its own. */
async function ring(...names: string[]) {
  const all = names.map((name) => aggregate({ local: localRegistry({ storage: memoryStorage(), name }), connectors: [] }));
  const caches = all.map((one, index) => cache(one, `${names[index]}-cache`));
  for (const [index, one] of all.entries()) {
    const source = caches[(index + 1) % all.length];
    const name = names[(index + 1) % all.length];
    if (name !== undefined && source) await one.setConnectors([{ name, source }]);
  }
  const [first, last, front] = [all[0], all.at(-1), caches[0]];
  if (!first || !last || !front) throw new Error("no ring");
  return { all, caches, first, last, front };
}

/** A loop that is not found hangs: this says which question did. */
async function inTime<T>(what: string, work: Promise<T>, ms = 3000): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} hangs: the loop was not found`)), ms);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

const reads: [string, (registry: Registry) => Promise<Lookup<unknown>>][] = [
  ["resolveManifest by tag", (registry) => registry.resolveManifest("app", "1")],
  ["resolveManifest by digest", (registry) => registry.resolveManifest("app", unknown)],
  ["getManifest by tag", (registry) => registry.getManifest("app", "1")],
  ["getManifest by digest", (registry) => registry.getManifest("app", unknown)],
  ["resolveBlob", (registry) => registry.resolveBlob("app", unknown)],
  ["getBlob", (registry) => registry.getBlob("app", unknown)],
  ["listTags", (registry) => registry.listTags("app", page)],
  ["listReferrers", (registry) => registry.listReferrers("app", unknown, page)],
];

const aLoop = { kind: "unavailable", error: { status: 503, message: expect.stringContaining("loop"), detail: { loop: true } } };

describe.each([[["a", "b"]], [["a", "b", "c"]]])("a cycle of %j with caches between", (names) => {
  test.each(reads)("%s ends, asked of an aggregate or of a cache, and is not remembered", async (what, read) => {
    const { first, front } = await ring(...names);
    // Referrers that a store does not know are an empty list, so this one is found.
    const expected = what === "listReferrers" ? { kind: "found" } : aLoop;
    for (const registry of [first, front, first]) expect(await inTime(what, read(registry))).toMatchObject(expected);
  });

  test.each(reads)("%s ends for all who ask everywhere at once", async (what, read) => {
    const { all, caches } = await ring(...names);
    const everywhere = [...all, ...caches, ...all, ...caches].map((registry) => read(registry));
    const answers = await inTime(what, Promise.all(everywhere));
    for (const { kind } of answers) expect(["found", "unavailable"]).toContain(kind);
    for (const registry of all) expect((await inTime(what, read(registry))).kind).not.toBe("absent");
  });

  test("what is in one of them is served from everywhere, at once", async () => {
    const { all, caches, last } = await ring(...names);
    const image = await pushImage(last, "app", "1", makeImage([200_000]));
    const layer = image.layers[0]?.digest ?? "";
    const pull = async (registry: Registry) => {
      expect(orThrow(await registry.getManifest("app", "1")).descriptor.digest).toBe(image.digest);
      const { content } = orThrow(await registry.getBlob("app", layer));
      expect(content.kind === "stream" && digestOf(await readAll(content.open()))).toBe(layer);
    };
    await inTime("a pull", Promise.all([...all, ...caches, ...all].map(pull)));
    for (const registry of [...all, ...caches]) {
      expect(orThrow(await inTime("listTags", registry.listTags("app", page))).items).toEqual(["1"]);
      expect(orThrow(await inTime("listRepositories", registry.listRepositories(page))).items).toEqual(["app"]);
    }
  });

  test("a tag that comes after a loop was found is served", async () => {
    const { first, last } = await ring(...names);
    expect(await inTime("getManifest", first.getManifest("app", "1"))).toMatchObject(aLoop);
    const image = await pushImage(last, "app", "1");
    expect(orThrow(await inTime("getManifest", first.getManifest("app", "1"))).descriptor.digest).toBe(image.digest);
  });
});

test("a tag that was deleted where it was is a loop, not an outdated answer", async () => {
  const { first, last } = await ring("a", "b");
  await pushImage(last, "app", "1");
  orThrow(await first.getManifest("app", "1"));
  orThrow(await first.listTags("app", page));
  await last.deleteManifest("app", "1");
  await clock.advance(10 * 60_000);
  expect(await inTime("getManifest", first.getManifest("app", "1"))).toMatchObject(aLoop);
});

test("a list that a loop has cut short is kept for those alone who came that way", async () => {
  const { first, last, caches } = await ring("a", "b");
  await pushImage(first, "app", "of-a");
  await pushImage(last, "app", "of-b");
  expect(orThrow(await first.listTags("app", page)).items).toEqual(["of-a", "of-b"]);
  // The cache of b: asked through a, b could not show what a has.
  const ofB = caches[1];
  expect(ofB && orThrow(await ofB.listTags("app", page)).items).toEqual(["of-a", "of-b"]);
});

describe("questions that are shared", () => {
  /** A source whose answers wait, and which notes whom they have passed. */
  function held() {
    const waiting: (() => void)[] = [];
    const asked: string[] = [];
    const note = (method: string, via: readonly string[] | undefined) => {
      asked.push(`${method} ${via?.join() ?? ""}`);
      return new Promise<void>((resolve) => waiting.push(resolve));
    };
    const origin = localRegistry({ storage: memoryStorage(), name: "origin", sparse: true });
    const source: Registry = {
      ...origin,
      async resolveManifest(repository, reference, o) {
        await note("resolveManifest", o?.via);
        return origin.resolveManifest(repository, reference);
      },
      async getBlob(repository, digest, o) {
        await note("getBlob", o?.via);
        return origin.getBlob(repository, digest, o);
      },
      async listTags(repository, request, o) {
        await note("listTags", o?.via);
        return origin.listTags(repository, request);
      },
    };
    const release = () => {
      for (const one of waiting.splice(0)) one();
    };
    return { origin, source, asked, release };
  }
  const turns = () => new Promise((resolve) => setTimeout(resolve, 20));
  /** As this process, or a peer that it trusts, would tell it. */
  const known = (via: string[] | undefined) => via && { via, knownVia: via };

  test.each<[string, (registry: Registry, via: string[] | undefined) => Promise<Lookup<unknown>>]>([
    ["resolveManifest", (registry, via) => registry.resolveManifest("app", "1", known(via))],
    ["listTags", (registry, via) => registry.listTags("app", page, known(via))],
  ])("%s: by those who came the same way", async (method, read) => {
    const { source, asked, release } = held();
    const hub = cache(source);
    const all = [undefined, ["a"], ["a"], ["b"], ["b", "a"], undefined].map((via) => read(hub, via));
    await turns();
    release();
    await inTime(method, Promise.all(all));
    expect(asked.map((one) => one.slice(method.length + 1))).toEqual(["", "a", "b", "b,a"]);
  });

  test("getBlob: by all who came no longer way, and by all once it comes", async () => {
    const { origin, source, asked, release } = held();
    const image = await pushImage(origin, "app", "1", makeImage([200_000]));
    const layer = image.layers[0]?.digest ?? "";
    const hub = cache(source);
    const get = (via?: string[]) => hub.getBlob("app", layer, known(via));
    const early = [get(["a"]), get(["b"]), get(), get(["b", "a"])];
    await turns();
    expect(asked.sort()).toEqual(["getBlob a", "getBlob b,a"]);
    release();
    for (const one of await inTime("getBlob", Promise.all(early))) expect(one.kind).toBe("found");
    expect((await inTime("getBlob", get(["c", "b", "a"]))).kind).toBe("found");
    expect(asked).toHaveLength(2);
  });

  test.each<[string, (registry: Registry, via: string[] | undefined) => Promise<Lookup<unknown>>]>([
    ["resolveManifest", (registry, via) => registry.resolveManifest("app", "1", via && { via })],
    ["listTags", (registry, via) => registry.listTags("app", page, via && { via })],
    ["getBlob", (registry, via) => registry.getBlob("app", unknown, via && { via })],
  ])("%s: by all whose way a client may have made up", async (_, read) => {
    const { source, asked, release } = held();
    const hub = cache(source);
    const all = [["a"], ["b"], undefined, ["b", "a"], ["c", "b", "a"]].map((via) => read(hub, via));
    await turns();
    expect(asked).toHaveLength(1);
    release();
    await Promise.all(all);
    expect(asked).toHaveLength(1);
  });

  test.each<[string, (registry: Registry, via?: string[]) => Promise<Lookup<unknown>>]>([
    ["getManifest", (registry, via) => registry.getManifest("app", "1", via && { via })],
    ["listTags", (registry, via) => registry.listTags("app", page, via && { via })],
    ["getBlob", (registry, via) => registry.getBlob("app", unknown, via && { via })],
  ])("%s: a loop that a client made up ends its own question, and nobody else's", async (_, read) => {
    const { origin } = held();
    const error = new RegistryError("UNAVAILABLE", "loop", { detail: { loop: true } });
    const asked: string[] = [];
    const looped = async (o: { via?: readonly string[] } | undefined): Promise<Lookup<never>> => {
      asked.push(o?.via?.join() ?? "");
      await turns();
      return o?.via ? { kind: "unavailable", error } : { kind: "absent" };
    };
    const source: Registry = {
      ...origin,
      resolveManifest: (_repository, _reference, o) => looped(o),
      listTags: (_repository, _page, o) => looped(o),
      getBlob: (_repository, _digest, o) => looped(o),
    };
    const hub = cache(source);
    const answers = await Promise.all([read(hub, ["a"]), read(hub), read(hub, ["b"]), read(hub), read(hub)]);
    expect(answers.map(({ kind }) => kind)).toEqual(["unavailable", "absent", "unavailable", "absent", "absent"]);
    expect(asked).toEqual(["a", ""]);
  });

  test("a loop of one way is no answer to another", async () => {
    const { origin } = held();
    const image = await pushImage(origin, "app", "1", makeImage([200_000]));
    const layer = image.layers[0]?.digest ?? "";
    const error = new RegistryError("UNAVAILABLE", "loop", { detail: { loop: true } });
    const source: Registry = {
      ...origin,
      async getBlob(repository, digest, o) {
        await turns();
        return o?.via?.includes("a") ? { kind: "unavailable", error } : origin.getBlob(repository, digest, o);
      },
    };
    const hub = cache(source);
    const [looped, served] = await inTime(
      "getBlob",
      Promise.all([hub.getBlob("app", layer, known(["a"])), hub.getBlob("app", layer, known(["b"]))]),
    );
    expect([looped?.kind, served?.kind]).toEqual(["unavailable", "found"]);
  });
});

describe("over HTTP", () => {
  type Between = (remote: Registry, name: string) => Registry;
  /** Servers that connect to each other, and the aggregates behind them. */
  async function servers(length: number, host: string, between: Between, options: RemoteOptions = {}) {
    const all: { readonly site: Site; readonly registry: AggregateRegistry }[] = [];
    for (let index = 0; index < length; index++) {
      const registry = aggregate({ local: store(`r${index}`), connectors: [] });
      all.push({ registry, site: await site(registry) });
    }
    for (const [index, { registry }] of all.entries()) {
      const next = all[(index + 1) % length];
      if (!next) throw new Error("no servers");
      const remote = remoteRegistry(`http://${host}:${next.site.port}`, { name: "next", ...options });
      onTestFinished(() => remote.close({ deadline: "1ms" }));
      await registry.setConnectors([{ name: "next", source: between(remote, `c${index}`) }]);
    }
    return all;
  }
  const plain: Between = (remote) => remote;

  test.each<[string, number, string, Between]>([
    ["two", 2, "127.0.0.1", plain],
    ["two, by another host name", 2, "localhost", plain],
    ["three", 3, "127.0.0.1", plain],
    ["two, through caches", 2, "127.0.0.1", cache],
    ["three, through caches and by another host name", 3, "localhost", cache],
  ])("%s servers: what is absent ends soon with a 503 that says why, and what is there is served", async (_, length, host, between) => {
    const all = await servers(length, host, between);
    const [first, last] = [all[0], all.at(-1)];
    if (!first || !last) throw new Error("no servers");
    const present = await pushImage(last.registry, "app", "1", makeImage([200_000]));
    const layer = present.layers[0]?.digest ?? "";
    const absent = ["/v2/app/manifests/9", `/v2/app/manifests/${unknown}`, `/v2/app/blobs/${unknown}`, "/v2/none/tags/list"];
    const ask = async (path: string) => {
      const response = await first.site.fetch(path);
      expect([path, response.status, response.headers.get(viaHeader)]).toEqual([path, 503, "loop"]);
      expect(await response.text()).toContain("loop");
      const head = await first.site.fetch(path, { method: "HEAD" });
      // HEAD of a blob hides what fails upstream: skopeo would end its push.
      expect([path, head.status]).toEqual([path, path.includes("/blobs/") ? 404 : 503]);
    };
    // Often enough to open a breaker, were these outages.
    for (let round = 0; round < 3; round++) for (const path of absent) await inTime(path, ask(path));
    await inTime("all at once", Promise.all([...absent, ...absent].map(ask)));
    const response = await inTime("a pull", first.site.fetch("/v2/app/manifests/1"));
    expect([response.status, response.headers.get("docker-content-digest")]).toEqual([200, present.digest]);
    const blob = await inTime("a blob", first.site.fetch(`/v2/app/blobs/${layer}`));
    expect(digestOf(Buffer.from(await blob.arrayBuffer()))).toBe(layer);
    expect((await inTime("tags", first.site.fetch("/v2/app/tags/list"))).status).toBe(200);
  });

  test("the chain is named to who may know it", async () => {
    const [first] = await servers(2, "localhost", plain);
    const lookup = await inTime("getManifest", first?.registry.getManifest("app", "9") ?? Promise.reject(new Error("no servers")));
    expect(lookup).toMatchObject(aLoop);
    expect("error" in lookup && isRegistryError(lookup.error) && lookup.error.message).toMatch(/^next: next: .*: loop: /);
  });

  test("every request to the registry says whom it has passed; those to where it redirects and to token endpoints do not", async () => {
    const seen: string[] = [];
    const image = makeImage([10]);
    const note = (who: string) => (method: string | undefined, url: string | undefined, via: unknown) =>
      seen.push(`${who} ${method} ${url?.replace(/[?].*/, "").replace(/sha256:.*/, "digest")} ${String(via ?? "-")}`);
    const [byUp, byCdn, byTokens] = [note("up"), note("cdn"), note("tokens")];
    const cdn = await listening((request, response) => {
      byCdn(request.method, request.url, request.headers[viaHeader]);
      response.writeHead(200, { "content-type": "application/vnd.oci.image.manifest.v1+json" }).end(image.manifest);
    });
    const tokens = await listening((request, response) => {
      byTokens(request.method, request.url, request.headers[viaHeader]);
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ token: "t" }));
    });
    const up = await listening((request, response) => {
      byUp(request.method, request.url, request.headers[viaHeader]);
      request.resume();
      const realm = `Bearer realm="${tokens.url}/token",service="up"`;
      if (request.headers.authorization === undefined) response.writeHead(401, { "www-authenticate": realm }).end();
      else if (request.method !== "GET" && request.method !== "HEAD")
        response.writeHead(202, { location: "/v2/app/blobs/uploads/1" }).end();
      else if (request.url === "/v2/app/manifests/moved") response.writeHead(307, { location: "/v2/app/manifests/here" }).end();
      else response.writeHead(307, { location: `${cdn.url}/signed` }).end();
    });
    const remote = remoteRegistry(up.url, { readOnly: false, realmHosts: [new URL(tokens.url).host] });
    onTestFinished(() => remote.close({ deadline: "1ms" }));
    const via = ["A".repeat(22), "B".repeat(22)];
    const header = via.join(", ");
    expect((await remote.getManifest("app", "moved", { via })).kind).toBe("found");
    expect(seen).toEqual([
      `up GET /v2/app/manifests/moved ${header}`,
      "tokens GET /token -",
      `up GET /v2/app/manifests/moved ${header}`,
      `up GET /v2/app/manifests/here ${header}`,
      "cdn GET /signed -",
    ]);
    seen.length = 0;
    const reading: Promise<unknown>[] = [
      remote.resolveManifest("app", "1", { via }),
      remote.resolveBlob("app", unknown, { via }),
      remote.getBlob("app", unknown, { via, verify: false }).then((lookup) => {
        const content = lookup.kind === "found" ? lookup.value.content : undefined;
        if (content?.kind === "stream") content.open().destroy();
      }),
      remote.listTags("app", page, { via }),
      remote.listRepositories(page, { via }),
      remote.listReferrers("app", unknown, page, { via }),
      remote.getManifest("app", "1", { via, priority: "background" }),
    ];
    await Promise.allSettled(reading);
    await remote.deleteManifest("app", "1", { via });
    await remote.deleteBlob("app", unknown, { via });
    const session = await remote.startUpload("app", { via });
    await session.cancel();
    await remote.mountBlob("app", unknown, undefined, { via });
    const bytes = Buffer.from("x");
    await remote.putBlob(
      "app",
      { digest: unknown, size: 1 },
      (async function* () {
        yield bytes;
      })(),
      { via },
    );
    const { manifest } = image;
    await remote.putManifest("app", "1", { bytes: manifest }, { via });
    const own = seen.filter((line) => line.startsWith("up "));
    expect(own.length).toBeGreaterThan(15);
    expect(own.filter((line) => !line.endsWith(` ${header}`))).toEqual([]);
    expect(seen.filter((line) => !line.startsWith("up ") && !line.endsWith(" -"))).toEqual([]);
    seen.length = 0;
    await remote.resolveManifest("app", "1");
    expect(seen[0]).toMatch(/^up HEAD \S+ -$/);
  });
});
