import express from "express";
import Koa from "koa";
import { localRegistry } from "oci-manifold";
import { fetchHandler } from "oci-manifold/fetch";
import { koaHandler } from "oci-manifold/koa";
import { type NodeHandlerOptions, nodeHandler } from "oci-manifold/node";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, test, vi } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { emptyRegistry, listening, overriding, recorder, site } from "./support.js";

const loopback = ["127.0.0.1"];

/** The address in the event about a request with these headers. */
async function addressOf(
  headers: Record<string, string>,
  options: NodeHandlerOptions = { trustedProxies: [...loopback, "10.0.0.0/8", "fd00::/8"] },
) {
  const events = recorder();
  const { fetch } = await site(undefined, { ...options, events });
  await (await fetch("/v2/", { headers })).text();
  await vi.waitFor(() => expect(events.of("request")).toHaveLength(1));
  return events.of("request")[0]?.address;
}

/** What clients are told to go to: by the answer to an upload and by a page of tags. */
async function told(options: NodeHandlerOptions, headers: Record<string, string> = {}) {
  const registry = localRegistry({ storage: memoryStorage(), name: "test" });
  await pushImage(registry, "app", "1");
  await pushImage(registry, "app", "2");
  const { fetch } = await site(registry, { anonymousWrites: true, ...options });
  const started = await fetch("/v2/app/blobs/uploads/", { method: "POST", headers });
  const page = await fetch("/v2/app/tags/list?n=1", { headers });
  return {
    location: started.headers.get("location")?.replace(/uploads\/.+/, "uploads/<id>"),
    link: page.headers.get("link"),
    status: [started.status, page.status],
  };
}

describe("the client's address", () => {
  test.each([
    ["one hop", { "X-Forwarded-For": "203.0.113.9" }, "203.0.113.9"],
    ["the rightmost that is no proxy", { "X-Forwarded-For": "198.51.100.1, 203.0.113.9, 10.1.2.3" }, "203.0.113.9"],
    ["all are proxies", { "X-Forwarded-For": "10.0.0.1, 10.0.0.2" }, "10.0.0.1"],
    ["with ports", { "X-Forwarded-For": "203.0.113.9:1234, [fd00::1]:80" }, "203.0.113.9"],
    ["IPv6", { "X-Forwarded-For": "2001:db8::7, fd12::1" }, "2001:db8::7"],
    ["IPv4 in IPv6", { "X-Forwarded-For": "203.0.113.9, ::ffff:10.0.0.1" }, "203.0.113.9"],
    ["what cannot be read ends the search", { "X-Forwarded-For": "203.0.113.9, unknown, 10.0.0.1" }, "10.0.0.1"],
    ["nothing that can be read", { "X-Forwarded-For": "<script>" }, "127.0.0.1"],
    ["empty", { "X-Forwarded-For": "" }, "127.0.0.1"],
    ["no header", {}, "127.0.0.1"],
    ["Forwarded", { Forwarded: "for=203.0.113.9;proto=https;by=10.0.0.1" }, "203.0.113.9"],
    [
      "Forwarded with several hops",
      { Forwarded: 'for=198.51.100.1, For="[2001:db8:cafe::17]:4711", proto=http;for=10.0.0.9' },
      "2001:db8:cafe::17",
    ],
    ["Forwarded with separators in quotes", { Forwarded: 'ext="a,b;for=1.2.3.4\\"";for=203.0.113.9' }, "203.0.113.9"],
    ["Forwarded that hides", { Forwarded: "for=203.0.113.9, for=_hidden, for=10.0.0.1" }, "10.0.0.1"],
    ["an element without for", { Forwarded: "for=203.0.113.9, by=10.0.0.1" }, "127.0.0.1"],
    ["both that agree", { "X-Forwarded-For": "203.0.113.9", Forwarded: "for=203.0.113.9" }, "203.0.113.9"],
    ["both that differ: one is the client's own", { "X-Forwarded-For": "203.0.113.9", Forwarded: "for=192.0.2.66" }, "127.0.0.1"],
  ])("%s", async (_, headers, address) => {
    expect(await addressOf(headers as Record<string, string>)).toBe(address);
  });

  test("is the peer's where nobody is trusted, or somebody else is", async () => {
    const headers = { "X-Forwarded-For": "203.0.113.9", Forwarded: "for=203.0.113.9" };
    for (const options of [
      {},
      { trustedProxies: [] },
      { trustedProxies: ["192.0.2.1", "10.0.0.0/8", "::1"] },
      { trustedProxies: () => false },
    ]) {
      expect(await addressOf(headers, options)).toBe("127.0.0.1");
    }
  });

  test("may be decided by a function, of which only true counts", async () => {
    const headers = { "X-Forwarded-For": "203.0.113.9, 192.0.2.1" };
    expect(await addressOf(headers, { trustedProxies: (address) => ["127.0.0.1", "192.0.2.1"].includes(address) })).toBe("203.0.113.9");
    expect(await addressOf(headers, { trustedProxies: (() => "yes") as never })).toBe("127.0.0.1");
    const broken = () => {
      throw new Error("no list");
    };
    expect(await addressOf(headers, { trustedProxies: broken })).toBe("127.0.0.1");
  });

  test("wins over Express's and Koa's own, only where proxies are named", async () => {
    for (const options of [{}, { trustedProxies: loopback }]) {
      const events = recorder();
      const app = express();
      app.set("trust proxy", 2);
      app.use(nodeHandler(emptyRegistry(), { ...options, events }));
      const koa = new Koa({ proxy: true });
      koa.use(koaHandler(emptyRegistry(), { ...options, events }));
      for (const listener of [app, koa.callback()]) {
        const { url } = await listening(listener);
        await (await fetch(`${url}/v2/`, { headers: { "X-Forwarded-For": "198.51.100.1, 203.0.113.9" } })).text();
      }
      await vi.waitFor(() => expect(events.of("request")).toHaveLength(2));
      const ours = "203.0.113.9";
      const theirs = "198.51.100.1";
      expect(events.of("request").map(({ address }) => address)).toEqual(options.trustedProxies ? [ours, ours] : [theirs, theirs]);
    }
  });

  test("in a Fetch runtime, from the peer that the host names", async () => {
    const events = recorder();
    const headers = { "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Prefix": "/registry" };
    const ask = (options: object) =>
      fetchHandler(emptyRegistry(), { anonymousWrites: true, events, ...options })(
        new Request("http://localhost/v2/app/blobs/uploads/", { method: "POST", headers }),
      );
    expect((await ask({ trustedProxies: loopback, address: () => "127.0.0.1" })).headers.get("location")).toMatch(/^\/registry\/v2\/app/);
    expect((await ask({ trustedProxies: loopback })).headers.get("location")).toMatch(/^\/v2\/app/);
    // There is no peer: the host may know that all come through its proxy.
    expect((await ask({ trustedProxies: (address: string) => address === "" })).headers.get("location")).toMatch(/^\/registry\/v2\/app/);
    expect(events.of("request").map(({ address }) => address)).toEqual(["203.0.113.9", undefined, "203.0.113.9"]);
  });

  test.each(["localhost", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.1:80", "fe80::1%eth0", "", "10.0.0.0/-1"])(
    "%j is no proxy",
    (text) => {
      expect(() => nodeHandler(emptyRegistry(), { trustedProxies: [text] })).toThrow(/trustedProxies/);
    },
  );
});

describe("Location and Link", () => {
  test("are relative to the domain's root", async () => {
    expect(await told({}, { "X-Forwarded-Prefix": "/registry" })).toEqual({
      location: "/v2/app/blobs/uploads/<id>",
      link: '</v2/app/tags/list?n=1&last=1>; rel="next"',
      status: [202, 200],
    });
  });

  test.each(["https://registry.example", "https://registry.example/", "http://Example.org:8080/team/registry", "https://[2001:db8::1]/r/"])(
    "begin with publicUrl %s",
    async (publicUrl) => {
      const base = publicUrl.replace(/\/$/, "").replace("Example", "example");
      // The prefix does not matter then.
      expect(await told({ publicUrl, trustedProxies: loopback }, { "X-Forwarded-Prefix": "/other" })).toEqual({
        location: `${base}/v2/app/blobs/uploads/<id>`,
        link: `<${base}/v2/app/tags/list?n=1&last=1>; rel="next"`,
        status: [202, 200],
      });
    },
  );

  test.each(["/registry", "/a/b.c/d_e~f-1"])("begin with the prefix %s of a trusted proxy", async (prefix) => {
    const { location, link } = await told({ trustedProxies: loopback }, { "X-Forwarded-Prefix": prefix });
    expect(location).toBe(`${prefix}/v2/app/blobs/uploads/<id>`);
    expect(link).toBe(`<${prefix}/v2/app/tags/list?n=1&last=1>; rel="next"`);
  });

  test.each([
    "registry",
    "//evil.example",
    "/a//b",
    "/a/",
    "/",
    "/..",
    "/a/../b",
    "/./a",
    "/a b",
    "/%2e%2e",
    "/a?b",
    "/a>; rel=x",
    "/a, /b",
    "https://evil.example",
    "\\\\evil",
    `/${"a".repeat(300)}`,
  ])("ignore the prefix %s", async (prefix) => {
    expect((await told({ trustedProxies: loopback }, { "X-Forwarded-Prefix": prefix })).location).toBe("/v2/app/blobs/uploads/<id>");
  });

  test("of an out-of-order chunk are as seen from outside too; redirects to other hosts stay", async () => {
    const { fetch } = await site(undefined, { anonymousWrites: true, publicUrl: "https://registry.example" });
    const started = await fetch("/v2/app/blobs/uploads/", { method: "POST" });
    const path = new URL(started.headers.get("location") ?? "").pathname;
    const refused = await fetch(path, { method: "PATCH", headers: { "Content-Range": "5-6" }, body: "ab" });
    expect([refused.status, refused.headers.get("location")]).toEqual([416, `https://registry.example${path}`]);
    const base = emptyRegistry();
    const { layers } = await pushImage(base, "app", "1");
    const elsewhere = overriding(base, {
      async getBlob(...args) {
        const lookup = await base.getBlob(...args);
        if (lookup.kind !== "found") return lookup;
        return { ...lookup, value: { ...lookup.value, content: { kind: "redirect", url: "https://bucket.example/1" } } };
      },
    });
    const redirecting = await site(elsewhere, { publicUrl: "https://registry.example" });
    const got = await redirecting.fetch(`/v2/app/blobs/${layers[0]?.digest}`);
    expect([got.status, got.headers.get("location")]).toEqual([307, "https://bucket.example/1"]);
  });

  test.each([
    "registry.example",
    "/registry",
    "ftp://registry.example",
    "https://user:secret@registry.example",
    "https://registry.example?x=1",
    "https://registry.example/#top",
    "https://registry.example/a//b",
    "https://registry.example/a/../b",
    "https://registry.example/a b",
    "https://registry.example/v2",
    "https://registry.example/v2/",
    "https://registry example",
    "https://",
    "",
  ])("publicUrl %j is refused", (publicUrl) => {
    let message = "";
    try {
      nodeHandler(emptyRegistry(), { publicUrl });
    } catch (error) {
      message = String(error);
    }
    expect(message).toContain("publicUrl");
    expect(message).not.toContain("secret");
  });
});
