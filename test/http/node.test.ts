import { localRegistry, RegistryError, routes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { nodeHandler } from "oci-manifold/node";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test, vi } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { emptyRegistry, errorCode, listening, overriding, raw, rawGet, recorder, site } from "./support.js";

test("/v2/ says what this is", async () => {
  const { fetch } = await site();
  for (const path of ["/v2", "/v2/"]) {
    const got = await fetch(path);
    expect(got.status).toBe(200);
    expect(Object.fromEntries(got.headers)).toMatchObject({
      "docker-distribution-api-version": "registry/2.0",
      "content-type": "application/json",
      "content-length": "2",
      "cache-control": "no-transform",
    });
    expect(await got.text()).toBe("{}");
  }
});

test.each([
  ["/v2/a%2Fb/tags/list", 400, "NAME_INVALID"],
  ["/v2/a%252Fb/tags/list", 400, "NAME_INVALID"],
  ["/v2/a/../b/tags/list", 400, "NAME_INVALID"],
  ["/v2/a/%2e%2E/b/tags/list", 400, "NAME_INVALID"],
  ["/v2/a%00b/tags/list", 400, "NAME_INVALID"],
  ["/v2/a%5Cb/tags/list", 400, "NAME_INVALID"],
  ["/v2/a\\b/tags/list", 400, "NAME_INVALID"],
  ["/v2/UPPER/manifests/latest", 400, "NAME_INVALID"],
  ["/v2/app/unknown", 404, "NAME_UNKNOWN"],
  ["/v2/../v2/app/unknown", 400, "NAME_INVALID"],
  ["/v2/app/blobs/sha256:zz", 400, "DIGEST_INVALID"],
  ["/elsewhere", 404, "NAME_UNKNOWN"],
])("GET %s over a raw socket is %i %s", async (path, status, code) => {
  const { port } = await site();
  const got = await rawGet(port, path);
  expect([got.status, got.body.includes(`"code":"${code}"`)]).toEqual([status, true]);
  expect(got.head).toContain("Docker-Distribution-API-Version: registry/2.0");
  expect(got.head).toContain("Content-Type: application/json");
});

test("escapes and an absolute target are understood", async () => {
  const { registry, port } = await site();
  const { digest } = await pushImage(registry, "app", "latest");
  for (const path of [`/v2/app/manifests/${digest.replace(":", "%3A")}`, `http://registry:5000/v2/app/manifests/latest`]) {
    expect((await rawGet(port, path)).status).toBe(200);
  }
});

test("a wrong method is 405, and the answer names the right ones", async () => {
  const { fetch } = await site();
  for (const [method, path, allow] of [
    ["POST", "/v2/", "GET, HEAD"],
    ["PATCH", "/v2/app/manifests/latest", "GET, HEAD, PUT, DELETE"],
    ["PUT", `/v2/app/blobs/${digestOf(Buffer.of(1))}`, "GET, HEAD, DELETE"],
    ["GET", "/v2/app/blobs/uploads/", "POST"],
    ["POST", "/v2/app/blobs/uploads/abc", "GET, HEAD, PATCH, PUT, DELETE"],
    ["DELETE", "/v2/_catalog", "GET, HEAD"],
    ["POST", "/v2/app/tags/list", "GET, HEAD"],
  ] as const) {
    const got = await fetch(path, { method });
    expect([path, got.status, got.headers.get("allow"), await errorCode(got)]).toEqual([path, 405, allow, "UNSUPPORTED"]);
  }
});

test("?ns= is a look-up among the namespaces", async () => {
  const storage = memoryStorage();
  const hub = localRegistry({ storage, name: "hub" });
  const { digest, layers } = await pushImage(hub, "library/alpine", "3");
  const { fetch, port } = await site(routes({ hub }, { namespaces: { "docker.io": hub, "registry:5000": hub } }));
  const layer = layers[0]?.digest;
  for (const ns of ["docker.io", "registry:5000", "registry%3A5000"]) {
    for (const path of ["manifests/3", `manifests/${digest}`, `blobs/${layer}`, "tags/list", `referrers/${digest}`]) {
      for (const method of ["GET", "HEAD"]) {
        const got = await fetch(`/v2/library/alpine/${path}?ns=${ns}`, { method });
        expect([path, got.status, got.headers.get("oci-namespace")]).toEqual([path, 200, decodeURIComponent(ns)]);
      }
    }
  }
  for (const [path, code] of [
    ["manifests/3", "MANIFEST_UNKNOWN"],
    [`blobs/${layer}`, "BLOB_UNKNOWN"],
    ["tags/list", "NAME_UNKNOWN"],
  ]) {
    const got = await fetch(`/v2/library/alpine/${path}?ns=169.254.169.254`);
    expect([got.status, await errorCode(got), got.headers.get("oci-namespace")]).toEqual([404, code, null]);
  }
  const referrers = await fetch(`/v2/library/alpine/referrers/${digest}?ns=quay.io`);
  expect([referrers.status, referrers.headers.get("oci-namespace")]).toEqual([200, null]);
  expect((await rawGet(port, "/v2/library/alpine/manifests/3?ns=docker.io%0d%0aX-Evil:1")).status).toBe(400);
  expect((await fetch("/v2/hub/library/alpine/manifests/3?ns=")).headers.get("oci-namespace")).toBeNull();
});

test("a bug is 500 without its details, and a fault for the host", async () => {
  const events = recorder();
  const registry = overriding(emptyRegistry(), { getManifest: () => Promise.reject(new Error("password=hunter2")) });
  const { fetch } = await site(registry, { events });
  const got = await fetch("/v2/app/manifests/latest");
  expect(got.status).toBe(500);
  expect(await got.json()).toEqual({ errors: [{ code: "UNKNOWN", message: "internal error" }] });
  expect(events.of("fault")).toMatchObject([{ registry: "http", message: expect.stringContaining("hunter2") }]);
});

test("every call gets caller, address, trace and a signal", async () => {
  const base = emptyRegistry();
  const listTags = vi.fn(base.listTags);
  const { fetch } = await site(overriding(base, { listTags }), { caller: async () => ({ name: "ci", team: "blue" }) });
  await fetch("/v2/app/tags/list", { headers: { "X-Request-Id": "abc-1" } });
  await fetch("/v2/app/tags/list", { headers: { "X-Request-Id": "not a trace" } });
  const [first, second] = listTags.mock.calls;
  expect(first?.[2]).toMatchObject({ caller: { name: "ci", team: "blue" }, address: "127.0.0.1", trace: "abc-1" });
  expect({ ...first?.[2] }.signal).toBeInstanceOf(AbortSignal);
  expect(first?.[2]?.signal?.aborted).toBe(false);
  expect(second?.[2]?.trace).toBeUndefined();
});

test("a request event for each response", async () => {
  const events = recorder();
  const { registry, fetch } = await site(undefined, { events, caller: () => ({ name: "ci" }) });
  const image = await pushImage(registry, "app", "latest");
  await (await fetch("/v2/app/manifests/latest?x=1")).arrayBuffer();
  await fetch("/v2/app/manifests/latest", { method: "HEAD" });
  const layer = image.layers[1];
  await (await fetch(`/v2/app/blobs/${layer?.digest}`)).arrayBuffer();
  await (await fetch("/v2/app/manifests/none")).arrayBuffer();
  await vi.waitFor(() => expect(events.of("request").length).toBe(4));
  expect(events.of("request")).toMatchObject([
    {
      method: "GET",
      url: "/v2/app/manifests/latest?x=1",
      status: 200,
      bytes: image.manifest.byteLength,
      member: ["test"],
      aborted: false,
      caller: { name: "ci" },
      address: "127.0.0.1",
    },
    { method: "HEAD", status: 200, bytes: 0, member: ["test"] },
    { method: "GET", status: 200, bytes: layer?.size, aborted: false },
    { method: "GET", status: 404, aborted: false },
  ]);
  expect(events.of("request").every(({ duration, time }) => duration >= 0 && time > 0)).toBe(true);
});

test("an observer that throws breaks nothing", async () => {
  const { fetch } = await site(undefined, {
    events: {
      emit() {
        throw new Error("observer");
      },
    },
  });
  expect((await fetch("/v2/")).status).toBe(200);
});

test("a caller that cannot be told apart is refused", async () => {
  const broken = await site(undefined, {
    caller: () => {
      throw new Error("vault is down");
    },
  });
  const got = await broken.fetch("/v2/app/tags/list");
  expect([got.status, (await got.text()).includes("vault")]).toEqual([500, false]);
  const bad = await site(undefined, { caller: () => Promise.reject(new RegistryError("UNAUTHORIZED", "the token has expired")) });
  const refused = await bad.fetch("/v2/app/tags/list");
  expect([refused.status, refused.headers.get("www-authenticate"), await errorCode(refused)]).toEqual([
    401,
    'Basic realm="registry"',
    "UNAUTHORIZED",
  ]);
});

test("one connection serves many requests, also after bodies that nobody read", async () => {
  const { port } = await site(undefined, {});
  const put = "PUT /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
  const text = await raw(port, `${put}${put}GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
  expect(text.match(/HTTP\/1\.1 \d+/g)).toEqual(["HTTP/1.1 401", "HTTP/1.1 401", "HTTP/1.1 200"]);
});

test("a server without `next` answers 404 to other paths", async () => {
  const { fetch } = await site();
  const got = await fetch("/metrics");
  expect([got.status, await errorCode(got)]).toEqual([404, "NAME_UNKNOWN"]);
});

test("an eaten body is named, not misread", async () => {
  const handler = nodeHandler(emptyRegistry(), { anonymousWrites: true });
  const { url } = await listening(async (request, response) => {
    for await (const _ of request);
    handler(request, response);
  });
  const started = await fetch(`${url}/v2/app/blobs/uploads/`, { method: "POST" });
  expect(started.status).toBe(202);
  const patch = await fetch(url + started.headers.get("location"), { method: "PATCH", body: "abc" });
  expect(patch.status).toBe(500);
  expect(await patch.text()).toContain("before body parsers");
  // Nothing to read, nothing eaten.
  const put = await fetch(`${url}${started.headers.get("location")}?digest=${digestOf(Buffer.alloc(0))}`, { method: "PUT" });
  expect(put.status).toBe(201);
});

test("where the host answered already, nothing is sent a second time", async () => {
  const base = emptyRegistry();
  const image = await pushImage(base, "app", "latest");
  const handler = nodeHandler(base, {});
  const { url } = await listening((request, response) => {
    handler(request, response);
    response.writeHead(504).end("too late");
  });
  for (const path of ["manifests/latest", `blobs/${image.layers[1]?.digest}`, "manifests/none"]) {
    expect((await fetch(`${url}/v2/app/${path}`)).status).toBe(504);
  }
  await handler.close();
});
