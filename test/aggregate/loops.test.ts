import { aggregate, isRegistryError, localRegistry, orThrow, type Registry, RegistryError, routes } from "oci-manifold";
import { decodeVia, digestOf, encodeVia } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, test } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { raw, site } from "../http/support.js";
import { store } from "./support.js";

const unknown = digestOf(Buffer.from("x"));
const ring = async (...names: string[]) => {
  const all = names.map((name) => aggregate({ local: localRegistry({ storage: memoryStorage(), name }), connectors: [] }));
  for (const [index, one] of all.entries()) {
    const next = (index + 1) % all.length;
    const [name, source] = [names[next], all[next]];
    if (name !== undefined && source) await one.setConnectors([{ name, source }]);
  }
  return all;
};

describe.each([
  [["a", "b"], "b: a: loop: local a is asked by itself, through 1 other aggregates"],
  [["a", "b", "c"], "b: c: a: loop: local a is asked by itself, through 2 other aggregates"],
])("a cycle of %j", (names, message) => {
  test.each<[string, (registry: Registry) => Promise<unknown>]>([
    ["resolveManifest", (registry) => registry.resolveManifest("app", "1")],
    ["getManifest", (registry) => registry.getManifest("app", unknown)],
    ["resolveBlob", (registry) => registry.resolveBlob("app", unknown)],
    ["getBlob", (registry) => registry.getBlob("app", unknown)],
    ["listTags", (registry) => registry.listTags("app", { limit: 1 })],
  ])("%s ends with an error that names the chain", async (_, read) => {
    const [first] = await ring(...names);
    if (!first) throw new Error("no ring");
    expect(await read(first)).toMatchObject({
      kind: "unavailable",
      error: { code: "UNAVAILABLE", status: 503, message, detail: { loop: true } },
    });
  });

  test("lists say so, a push that has to ask does too, and what is there is served", async () => {
    const rings = await ring(...names);
    const [first, last] = [rings[0], rings.at(-1)];
    if (!first || !last) throw new Error("no ring");
    const image = await pushImage(last, "app", "1");
    expect(orThrow(await first.getManifest("app", "1")).descriptor.digest).toBe(image.digest);
    expect((await first.getBlob("app", image.config.digest)).kind).toBe("found");
    const listed = orThrow(await first.listRepositories({ limit: 10 }));
    expect([listed.items, listed.warnings?.join()]).toEqual([["app"], expect.stringContaining("loop")]);
    await expect(first.putManifest("new", "1", { bytes: image.manifest })).rejects.toMatchObject({
      message: expect.stringContaining("loop"),
    });
    await expect(first.deleteManifest("app", "9")).rejects.toMatchObject({ message: expect.stringContaining("loop") });
  });
});

test("a cycle with a filter in it, which asks for the one name of a repository, ends too", async () => {
  const [a, b] = await ring("a", "b");
  if (!a || !b) throw new Error("no ring");
  await a.setConnectors([{ name: "b", source: b, block: ["secret"] }]);
  await b.setConnectors([{ name: "a", source: a, allow: ["**"] }]);
  expect(a.canonicalName?.("app")).toBe("app");
  expect(await a.resolveManifest("app", "1")).toMatchObject({ error: { detail: { loop: true } } });
  expect(await a.explain("app", "1")).toMatchObject({ why: expect.stringContaining("loop") });
});

test("aggregates that show each other become ready and are closed, whoever of them is", async () => {
  for (const first of [0, 1, 2]) {
    const all = await ring("a", "b", "c");
    const order = [all[first], ...all];
    for (const one of order) await one?.ready();
    await Promise.all(order.map((one) => one?.close({ deadline: "1s" })));
  }
});

test("each aggregate is asked once, through views and routes too; two ways to one source are no loop", async () => {
  const { registry: base, calls } = spied(store("base"));
  const inner = (name: string) => aggregate({ local: store(name), connectors: [{ name: "base", source: base }] });
  const [left, right] = [inner("left"), inner("right")];
  const top = aggregate({
    local: store("top"),
    connectors: [
      { name: "left", source: left, block: ["x"] },
      { name: "right", source: routes({ app: right }) },
    ],
  });
  expect(await top.resolveManifest("app/app", "1")).toEqual({ kind: "absent" });
  expect(calls).toEqual(["resolveManifest app/app 1", "resolveManifest app 1"]);
});

test("a chain that is longer than any that is meant ends, whoever is in it", async () => {
  const all = aggregate({ local: store("own"), connectors: [] });
  const via = Array.from({ length: 32 }, (_, index) => String(index).padStart(22, "A"));
  expect((await all.resolveManifest("app", "1", { via: via.slice(1) })).kind).toBe("absent");
  expect(await all.resolveManifest("app", "1", { via })).toMatchObject({
    error: { message: "loop: local own is asked through 32 aggregates" },
  });
});

describe("over HTTP", () => {
  /** A registry over HTTP that tells whom its question has passed. */
  const remote = (url: () => string): Registry => ({
    ...store("remote"),
    async getManifest(repository, reference, o) {
      const via = encodeVia(o?.via);
      const headers = new Headers(via === undefined ? [] : [["manifold-via", via]]);
      const response = await fetch(`${url()}/v2/${repository}/manifests/${reference}`, { headers });
      if (response.status === 404) return { kind: "absent" };
      const { errors } = (await response.json()) as { errors: { message: string }[] };
      return { kind: "unavailable", error: new RegistryError("UNAVAILABLE", errors[0]?.message ?? "") };
    },
  });

  test.each([
    ["another host name", (port: number) => `http://localhost:${port}`, 2],
    ["a third registry between", (port: number) => `http://127.0.0.1:${port}`, 3],
  ])("a cycle by %s ends", async (_, urlOf, length) => {
    const ports: number[] = [];
    for (let index = 0; index < length; index++) {
      const next = (index + 1) % length;
      const source = remote(() => urlOf(ports[next] ?? 0));
      const served = await site(aggregate({ local: store(`r${index}`), connectors: [{ name: "next", source }] }));
      ports.push(served.port);
    }
    const response = await fetch(`http://127.0.0.1:${ports[0]}/v2/app/manifests/1`);
    expect(response.status).toBe(503);
    const direct = aggregate({ local: store("outside"), connectors: [{ name: "ring", source: remote(() => urlOf(ports[0] ?? 0)) }] });
    expect((await direct.getManifest("app", "1")).kind).toBe("unavailable");
  });

  test("the one that finds itself says so, without naming anybody", async () => {
    let seen: readonly string[] | undefined;
    const source: Registry = {
      ...store("there"),
      async resolveManifest(_, __, o) {
        seen = o?.via;
        return { kind: "absent" };
      },
    };
    const { fetch } = await site(aggregate({ local: store("secret"), connectors: [{ name: "there", source }] }));
    expect((await fetch("/v2/app/manifests/1", { method: "HEAD" })).status).toBe(404);
    expect(seen).toHaveLength(1);
    const response = await fetch("/v2/app/manifests/1", { headers: { "Manifold-Via": encodeVia(seen) ?? "" } });
    expect([response.status, await response.json()]).toEqual([
      503,
      { errors: [{ code: "UNAVAILABLE", message: "loop: a registry behind this one leads back to it", detail: { loop: true } }] },
    ]);
  });

  test.each([
    ["too many", Array(33).fill("A".repeat(22)).join(",")],
    ["too long", "A".repeat(5000)],
    ["names", "prerelease"],
    ["other characters", `${"A".repeat(21)}=`],
    ["nothing between commas", ","],
  ])("a header with %s is refused", async (_, header) => {
    const { port } = await site(store("own"));
    expect(await raw(port, `GET /v2/app/tags/list HTTP/1.1\r\nHost: r\r\nManifold-Via: ${header}\r\nConnection: close\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 400 /,
    );
  });
});

test("the header says what it was given", () => {
  const via = ["A".repeat(22), "b-_9".padEnd(22, "0")];
  expect(decodeVia(encodeVia(via))).toEqual(via);
  expect([encodeVia(undefined), encodeVia([]), decodeVia(undefined), decodeVia("")]).toEqual([undefined, undefined, undefined, undefined]);
  expect(() => decodeVia("x")).toThrow(expect.toSatisfy(isRegistryError));
});
