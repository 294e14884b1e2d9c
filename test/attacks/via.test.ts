import { randomBytes } from "node:crypto";
import { digestOf } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { protocols, type Stack, stack } from "./stack.js";

const marks = (count: number) => Array.from({ length: count }, () => randomBytes(16).toString("base64url")).join(", ");

/** Asks at once, each with marks of its own: one, or up to 20. */
const askAll = ({ ask }: Stack, path: string, count: number, most = 1) =>
  Promise.all(Array.from({ length: count }, (_, index) => ask("GET", path, { headers: { "manifold-via": marks(1 + (index % most)) } })));

const layouts = protocols.flatMap((protocol) => ["hub", "prerelease"].map((route) => [route, protocol] as const));

test.each(layouts)(
  "50 GETs of one tag with marks that a client made up cost two requests upstream: %s over %s",
  async (route, protocol) => {
    for (const most of [1, 20]) {
      const made = await stack({ front: protocol });
      const image = made.upstream.addImage("library/alpine", "3");
      for (const { status, body } of await askAll(made, `/v2/${route}/library/alpine/manifests/3`, 50, most))
        expect([status, digestOf(body)]).toEqual([200, image.digest]);
      const asked = made.upstream.requests.filter(({ url }) => url.includes("/manifests/")).map(({ method }) => method);
      expect(asked).toEqual(["HEAD", "GET"]);
    }
  },
);

test.each(layouts)("nor do they split what brings a layer, or a list: %s over %s", async (route, protocol) => {
  const made = await stack({ front: protocol });
  const image = made.upstream.addImage("library/alpine", "3", { layers: [300_000] });
  const [layer] = image.layers;
  for (const { status, body } of await askAll(made, `/v2/${route}/library/alpine/blobs/${layer?.digest}`, 20, 20))
    expect([status, digestOf(body)]).toEqual([200, layer?.digest]);
  expect(made.upstream.requests.filter(({ method, url }) => method === "GET" && url.includes("/blobs/"))).toHaveLength(1);
  for (const { status } of await askAll(made, `/v2/${route}/library/alpine/tags/list`, 20, 20)) expect(status).toBe(200);
  // No page of it is asked for twice.
  const pages = made.upstream.requests.map(({ url }) => url).filter((url) => url.includes("/tags/list"));
  expect([pages.length > 0, new Set(pages).size]).toEqual([true, pages.length]);
});

test.each([
  ["nobody", undefined, 2],
  ["another peer", ["192.0.2.0/24"], 2],
  ["this peer", ["127.0.0.0/8"], 6],
])("where the host trusts %s, three ways of one question are asked as often as that says", async (_, trustedPeers, expected) => {
  const made = await stack({ handler: trustedPeers ? { trustedPeers } : {} });
  made.upstream.addImage("library/alpine", "3");
  let arrived = 0;
  made.upstream.intercept = async ({ method }) => {
    // Held until all have come that will.
    if (method === "HEAD" && ++arrived < expected / 2) await new Promise<void>((resolve) => waiting.push(resolve));
    else for (const resolve of waiting.splice(0)) resolve();
    return undefined;
  };
  const waiting: (() => void)[] = [];
  for (const { status } of await askAll(made, "/v2/hub/library/alpine/manifests/3", 3)) expect(status).toBe(200);
  expect(made.upstream.requests.filter(({ method }) => method === "HEAD")).toHaveLength(expected / 2);
});

test("marks are passed on as they came, and no more of them than ever", async () => {
  const { ask, upstream } = await stack();
  upstream.addImage("library/alpine", "3");
  const header = marks(3);
  const get = (via: string) => ask("GET", "/v2/prerelease/library/alpine/manifests/3", { headers: { "manifold-via": via } });
  expect((await get(header)).status).toBe(200);
  const passed = String(upstream.requests[0]?.headers["manifold-via"]).split(", ");
  expect([passed.length, passed.slice(0, 3).join(", ")]).toEqual([4, header]);
  expect((await get(marks(33))).status).toBe(400);
  expect((await get(marks(32))).status).toBe(503);
});
