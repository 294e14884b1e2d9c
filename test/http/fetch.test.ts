import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { mediaTypes, type Registry, RegistryError } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { type FetchHandler, type FetchHandlerOptions, fetchHandler } from "oci-manifold/fetch";
import { fakeClock } from "oci-manifold/testing";
import { expect, onTestFinished, test, vi } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { emptyRegistry, errorCode, overriding, recorder } from "./support.js";

const origin = "http://registry.example";

function handlerOf(registry: Registry = emptyRegistry(), options: FetchHandlerOptions = { anonymousWrites: true }) {
  const handler = fetchHandler(registry, options);
  return { registry, handler, ask: (path: string, init?: RequestInit) => handler(new Request(origin + path, init)) };
}

/** A registry whose blobs come from this source, of a declared size. */
function streaming(size: number, open: () => Readable): Registry {
  const base = emptyRegistry();
  const digest = digestOf(Buffer.from("any"));
  const descriptor = { mediaType: mediaTypes.octetStream, digest, size };
  return overriding(base, {
    getBlob: async () => ({ kind: "found", value: { descriptor, content: { kind: "stream", open } }, served: { member: ["test"] } }),
  });
}

/** A body of unknown length. */
function streamOf(...chunks: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
}

const blobPath = `/v2/app/blobs/${digestOf(Buffer.from("any"))}`;

test("a push and a pull", async () => {
  const { ask } = handlerOf();
  const image = makeImage([300_000]);
  for (const [digest, bytes] of image.blobs) {
    const started = await ask("/v2/team/app/blobs/uploads/", { method: "POST" });
    expect([started.status, started.headers.get("content-length")]).toEqual([202, "0"]);
    const location = started.headers.get("location");
    const body = streamOf(bytes.subarray(0, 100), bytes.subarray(100));
    expect((await ask(`${location}`, { method: "PATCH", body, duplex: "half" })).status).toBe(202);
    expect((await ask(`${location}?digest=${digest}`, { method: "PUT" })).status).toBe(201);
    const got = await ask(`/v2/team/app/blobs/${digest}`);
    expect([got.status, got.headers.get("content-length")]).toEqual([200, String(bytes.byteLength)]);
    expect(Buffer.from(await got.arrayBuffer()).equals(bytes)).toBe(true);
    const head = await ask(`/v2/team/app/blobs/${digest}`, { method: "HEAD" });
    expect([head.body, head.headers.get("content-length")]).toEqual([null, String(bytes.byteLength)]);
    const fresh = await ask(`/v2/team/app/blobs/${digest}`, { headers: { "If-None-Match": `"${digest}"` } });
    expect([fresh.status, fresh.body]).toEqual([304, null]);
  }
  const path = "/v2/team/app/manifests/latest";
  const put = await ask(path, { method: "PUT", headers: { "Content-Type": mediaTypes.ociManifest }, body: image.manifest });
  expect([put.status, put.headers.get("location")]).toEqual([201, `/v2/team/app/manifests/${image.digest}`]);
  const got = await ask(path);
  expect(got.headers.get("docker-content-digest")).toBe(image.digest);
  expect(Buffer.from(await got.arrayBuffer()).equals(image.manifest)).toBe(true);
});

test("other paths are 404", async () => {
  const { ask } = handlerOf();
  for (const path of ["/", "/v2x", "/elsewhere"]) {
    const got = await ask(path);
    expect([got.status, await errorCode(got)]).toEqual([404, "NAME_UNKNOWN"]);
  }
  expect((await ask("/elsewhere", { method: "HEAD" })).body).toBeNull();
});

test("caller and address come from the host", async () => {
  const events = recorder();
  const { ask } = handlerOf(undefined, {
    events,
    address: (request) => request.headers.get("x-socket") ?? undefined,
    caller: (request) => (request.headers.get("x-user") === "ci" ? { name: "ci" } : undefined),
    authorize: ({ caller }) => caller?.name === "ci",
  });
  expect((await ask("/v2/app/tags/list")).status).toBe(401);
  const post = await ask("/v2/app/blobs/uploads/", { method: "POST", headers: { "x-user": "ci", "x-socket": "192.0.2.7" } });
  expect(post.status).toBe(202);
  expect(events.of("request")).toMatchObject([
    { status: 401, url: "/v2/app/tags/list", aborted: false },
    { status: 202, method: "POST", caller: { name: "ci" }, address: "192.0.2.7", bytes: 0 },
  ]);
  expect(events.of("request")[0]?.address).toBeUndefined();
});

test("a body that somebody read is named", async () => {
  const { handler } = handlerOf();
  const request = new Request(`${origin}/v2/app/blobs/uploads/?digest=${digestOf(Buffer.from("abc"))}`, { method: "POST", body: "abc" });
  await request.text();
  const got = await handler(request);
  expect([got.status, (await got.text()).includes("was read before it reached Manifold")]).toEqual([500, true]);
});

test("a body cut short is no whole body", async () => {
  const { ask } = handlerOf();
  const bytes = Buffer.from("half of it");
  const got = await ask(`/v2/app/blobs/uploads/?digest=${digestOf(bytes)}`, {
    method: "POST",
    body: bytes,
    headers: { "Content-Length": "20" },
  });
  expect(got.status).toBeGreaterThanOrEqual(400);
  expect((await ask(`/v2/app/blobs/${digestOf(bytes)}`)).status).toBe(404);
});

test("a stream is pulled, not pushed, and its event comes when it was taken", async () => {
  const events = recorder();
  const chunk = Buffer.alloc(64 * 1024, 1);
  let read = 0;
  const source = () =>
    new Readable({
      highWaterMark: 1,
      read() {
        read++;
        this.push(read > 100 ? null : chunk);
      },
    });
  const { ask } = handlerOf(streaming(chunk.byteLength * 100, source), { events });
  const got = await ask(blobPath);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(read).toBeLessThanOrEqual(4);
  const reader = got.body?.getReader();
  let size = 0;
  while (size < 50 * chunk.byteLength) size += (await reader?.read())?.value?.byteLength ?? 0;
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(read * chunk.byteLength - size).toBeLessThanOrEqual(4 * chunk.byteLength);
  expect(events.of("request")).toEqual([]);
  for (let step = await reader?.read(); step && !step.done; step = await reader?.read()) size += step.value.byteLength;
  expect(size).toBe(100 * chunk.byteLength);
  expect(events.of("request")).toMatchObject([{ status: 200, bytes: size, aborted: false, member: ["test"] }]);
});

test("memory of the store is not taken away", async () => {
  const kept = Buffer.alloc(100, 7);
  const { ask } = handlerOf(streaming(200, () => Readable.from([kept, kept])));
  for (let i = 0; i < 2; i++) expect((await (await ask(blobPath)).arrayBuffer()).byteLength).toBe(200);
  expect(kept[99]).toBe(7);
});

test.each([
  ["fewer bytes", 300, "gave 200", 200],
  ["more bytes", 150, "gave more", 100],
  ["more bytes in a chunk of their own", 200, "gave more", 100],
])("a source that gives %s than declared breaks the response", async (_, size, message, bytes) => {
  const events = recorder();
  const { ask } = handlerOf(
    streaming(size, () => Readable.from([Buffer.alloc(100), Buffer.alloc(100), ...(size === 200 ? [Buffer.alloc(1)] : [])])),
    { events },
  );
  const got = await ask(blobPath);
  expect(got.status).toBe(200);
  await expect(got.arrayBuffer()).rejects.toThrow(message);
  expect(events.of("request")).toMatchObject([{ status: 200, bytes, aborted: true }]);
});

test.each([
  ["cannot be opened", 10, () => Readable.from([]).destroy(new RegistryError("UNAVAILABLE", "the disk is gone")), 503],
  ["is empty where bytes were promised", 10, () => Readable.from([]), 500],
  ["gives too much at once", 10, () => Readable.from([Buffer.alloc(11)]), 500],
  [
    "throws",
    10,
    () => {
      throw new RegistryError("UNAVAILABLE", "too many open files");
    },
    503,
  ],
])("a source that %s is an error response", async (_name, size, open, status) => {
  const events = recorder();
  const { ask } = handlerOf(streaming(size, open), { events });
  const got = await ask(blobPath);
  expect([got.status, got.headers.get("content-type")]).toEqual([status, "application/json"]);
  expect(events.of("request")).toMatchObject([{ status, aborted: false }]);
});

test("an empty blob, and one of a single chunk, need no stream", async () => {
  const { ask } = handlerOf(streaming(0, () => Readable.from([])));
  const empty = await ask(blobPath);
  expect([empty.status, empty.headers.get("content-length"), (await empty.arrayBuffer()).byteLength]).toEqual([200, "0", 0]);
});

test("a client that cancels destroys the source", async () => {
  const events = recorder();
  const source = Readable.from([Buffer.alloc(100), Buffer.alloc(100), Buffer.alloc(100)]);
  const { ask } = handlerOf(
    streaming(300, () => source),
    { events },
  );
  const got = await ask(blobPath);
  await got.body?.cancel();
  expect(source.destroyed).toBe(true);
  expect(events.of("request")).toMatchObject([{ status: 200, bytes: 0, aborted: true }]);
});

test("the request's signal aborts the call and breaks the body off", async () => {
  const events = recorder();
  let seen: AbortSignal | undefined;
  const hanging = overriding(emptyRegistry(), {
    listTags: (_repository, _page, o) =>
      new Promise((_, reject) => {
        seen = o?.signal;
        seen?.addEventListener("abort", () => reject(seen?.reason));
      }),
  });
  const client = new AbortController();
  const waiting = handlerOf(hanging, { events }).ask("/v2/app/tags/list", { signal: client.signal });
  await vi.waitFor(() => expect(seen).toBeDefined());
  client.abort();
  await waiting;
  expect(seen?.aborted).toBe(true);
  expect(events.of("request")).toMatchObject([{ status: 499, bytes: 0, aborted: true }]);

  const source = Readable.from([Buffer.alloc(100), Buffer.alloc(100)]);
  const other = new AbortController();
  const got = await handlerOf(streaming(200, () => source)).ask(blobPath, { signal: other.signal });
  other.abort();
  expect(source.destroyed).toBe(true);
  await expect(got.arrayBuffer()).rejects.toThrow();
  const gone = await handlerOf(undefined, { events }).ask("/v2/", { signal: AbortSignal.abort() });
  expect(gone.status).toBe(503);
  expect(events.of("request")).toHaveLength(2);
});

test("a client that stops reading is broken off", async () => {
  const source = Readable.from([Buffer.alloc(100), Buffer.alloc(100)]);
  const events = recorder();
  const { ask } = handlerOf(
    streaming(200, () => source),
    { events, idleTimeout: "40ms" },
  );
  const got = await ask(blobPath);
  await vi.waitFor(() => expect(source.destroyed).toBe(true));
  await expect(got.arrayBuffer()).rejects.toThrow();
  expect(events.of("request")).toMatchObject([{ status: 200, aborted: true }]);
});

test("close breaks off what runs at the deadline, whether it was answered or not", async () => {
  const events = recorder();
  const source = Readable.from([Buffer.alloc(100), Buffer.alloc(100)]);
  const registry = overriding(
    streaming(200, () => source),
    // Deaf to its signal, as a registry of the host's may be.
    { listTags: () => new Promise((resolve) => setTimeout(() => resolve({ kind: "absent" }), 200)) },
  );
  const { ask, handler } = handlerOf(registry, { events });
  const got = await ask(blobPath);
  const deaf = ask("/v2/app/tags/list");
  const closing = handler.close({ deadline: "30ms" });
  const refused = await ask("/v2/");
  expect([refused.status, refused.headers.get("connection"), refused.headers.get("retry-after")]).toEqual([503, null, "1"]);
  expect((await deaf).status).toBe(503);
  await expect(got.arrayBuffer()).rejects.toThrow();
  expect(source.destroyed).toBe(true);
  expect(events.of("request").map(({ status, aborted }) => [status, aborted])).toEqual([
    [503, false],
    [200, true],
    [503, true],
  ]);
  await closing;
});

test("a header that the platform refuses is a fault and a 500", async () => {
  const events = recorder();
  const base = emptyRegistry();
  const image = await pushImage(base, "app", "1");
  const registry = overriding(base, {
    async resolveManifest(...args) {
      const lookup = await base.resolveManifest(...args);
      if (lookup.kind !== "found") return lookup;
      return { ...lookup, value: { ...lookup.value, digest: "sha256:\n" as typeof lookup.value.digest } };
    },
  });
  const { ask } = handlerOf(registry, { events });
  expect((await ask("/v2/app/manifests/1", { method: "HEAD" })).status).toBe(500);
  expect(events.of("fault")).toHaveLength(1);
  expect(events.of("request")).toHaveLength(1);
  expect(image.digest).toContain("sha256");
});

async function honoServing(images: FetchHandler): Promise<string> {
  const app = new Hono();
  app.all("/v2/*", (context) => images(context.req.raw));
  app.get("/", (context) => context.text("beside"));
  let server: ReturnType<typeof serve> | undefined;
  const port = await new Promise<number>((resolve) => {
    server = serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" }, (info) => resolve(info.port));
  });
  onTestFinished(() => void server?.close());
  return `http://127.0.0.1:${port}`;
}

test("in Hono on Node: streams both ways, refusals and clients that leave", async () => {
  const events = recorder();
  const registry = emptyRegistry();
  const images = fetchHandler(registry, {
    events,
    authorize: ({ action, repository }) => action === "pull" || repository === "open",
  });
  const url = await honoServing(images);
  const bytes = randomBytes(3_000_000);
  const digest = digestOf(bytes);
  const ask = (path: string, init?: RequestInit) => fetch(url + path, init);

  expect(await (await ask("/")).text()).toBe("beside");
  expect((await ask("/v2")).status).toBe(401);
  const started = await ask("/v2/open/blobs/uploads/", { method: "POST" });
  const body = streamOf(bytes.subarray(0, 1_000_000), bytes.subarray(1_000_000));
  const patched = await ask(`${started.headers.get("location")}`, { method: "PATCH", body, duplex: "half" });
  expect([patched.status, patched.headers.get("range")]).toEqual([202, `0-${bytes.byteLength - 1}`]);
  expect((await ask(`${patched.headers.get("location")}?digest=${digest}`, { method: "PUT" })).status).toBe(201);
  const got = await ask(`/v2/open/blobs/${digest}`);
  expect([got.headers.get("content-length"), got.headers.get("transfer-encoding")]).toEqual([String(bytes.byteLength), null]);
  expect(Buffer.from(await got.arrayBuffer()).equals(bytes)).toBe(true);
  const head = await ask(`/v2/open/blobs/${digest}`, { method: "HEAD" });
  expect([head.status, head.headers.get("content-length")]).toEqual([200, String(bytes.byteLength)]);
  const refused = await ask(`/v2/closed/blobs/uploads/?digest=${digest}`, { method: "POST", body: bytes });
  expect([refused.status, await errorCode(refused)]).toEqual([401, "UNAUTHORIZED"]);

  await images.close();
});

test("in Hono on Node: a client that leaves in the middle of a download or an upload", async () => {
  const events = recorder();
  const large = 64 * 1024 * 1024;
  const sources: Readable[] = [];
  const chunk = Buffer.alloc(1024 * 1024);
  const registry = streaming(large, () => {
    const source = Readable.from(
      (function* () {
        for (let i = 0; i < 64; i++) yield chunk;
      })(),
    );
    sources.push(source);
    return source;
  });
  const images = fetchHandler(registry, { events, anonymousWrites: true });
  const url = await honoServing(images);
  const client = new AbortController();
  const half = await fetch(url + blobPath, { signal: client.signal });
  await half.body?.getReader().read();
  client.abort();
  await vi.waitFor(() => expect(events.of("request")).toHaveLength(1));
  expect(events.of("request")).toMatchObject([{ status: 200, aborted: true }]);
  expect(sources.map(({ destroyed }) => destroyed)).toEqual([true]);

  const started = await fetch(`${url}/v2/app/blobs/uploads/`, { method: "POST" });
  const location = url + started.headers.get("location");
  const uploader = new AbortController();
  let sent = 0;
  const endless = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (sent++ < 3) controller.enqueue(chunk);
      else await new Promise(() => {});
    },
  });
  const upload = fetch(location, { method: "PATCH", body: endless, duplex: "half", signal: uploader.signal }).catch(() => "gone");
  await vi.waitFor(() => expect(sent).toBe(4));
  await new Promise((resolve) => setTimeout(resolve, 50));
  uploader.abort();
  expect(await upload).toBe("gone");
  await vi.waitFor(() => expect(events.of("request")).toHaveLength(3));
  expect(events.of("request")[2]).toMatchObject({ method: "PATCH", aborted: true });
  await vi.waitFor(async () => {
    const status = await fetch(location);
    expect([status.status, status.headers.get("range")]).toEqual([204, `0-${3 * chunk.byteLength - 1}`]);
  });
  await images.close();
});

test("bodies that nobody reads count in the budget: others wait for them, then get 429", async () => {
  const clock = fakeClock();
  const sources: Readable[] = [];
  const unread = () => sources.filter(({ destroyed }) => !destroyed).length;
  const open = () => {
    const source = new Readable({ read() {} });
    source.push(Buffer.alloc(64 * 1024));
    sources.push(source);
    return source;
  };
  const { ask } = handlerOf(streaming(2 ** 20, open), { maxBuffered: "8MiB", idleTimeout: "0s", minimumThroughput: "0B", clock });
  // Half of the budget, since all have the same address: none.
  const held = await Promise.all(Array.from({ length: 64 }, () => ask(blobPath)));
  expect(held.every(({ status }) => status === 200)).toBe(true);
  let refused: Response | undefined;
  void ask(blobPath).then((response) => {
    refused = response;
  });
  await vi.waitFor(async () => {
    await clock.advance(1000);
    expect(refused?.status).toBe(429);
  });
  expect(unread()).toBe(64);
  const waiting = ask(blobPath);
  await held[0]?.body?.cancel();
  expect((await waiting).status).toBe(200);
  expect([unread(), sources[0]?.destroyed]).toEqual([64, true]);
});

test("a budget that no manifest fits in is refused", () => {
  expect(() => handlerOf(emptyRegistry(), { maxBuffered: "1MiB" })).toThrow("8MiB");
});
