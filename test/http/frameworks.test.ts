import { createServer } from "node:http";
import { createRequire } from "node:module";
import compression from "compression";
import express from "express";
import Fastify from "fastify";
import helmet from "helmet";
import Koa from "koa";
import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { koaHandler } from "oci-manifold/koa";
import { nodeHandler } from "oci-manifold/node";
import { describe, expect, onTestFinished, test } from "vitest";
import { makeImage } from "../fixtures/images.js";
import { emptyRegistry, listening } from "./support.js";

const load = createRequire(import.meta.url);
const express4 = load("express4") as typeof express;
const Koa2 = load("koa2") as typeof Koa;

/** A push and a pull, as a client does them. */
async function pushAndPull(url: string): Promise<void> {
  const image = makeImage([300_000]);
  for (const [digest, bytes] of image.blobs) {
    const started = await fetch(`${url}/v2/team/app/blobs/uploads/`, { method: "POST" });
    expect(started.status).toBe(202);
    const location = url + started.headers.get("location");
    const headers = { "Content-Type": "application/octet-stream" };
    expect((await fetch(location, { method: "PATCH", headers, body: bytes })).status).toBe(202);
    expect((await fetch(`${location}?digest=${digest}`, { method: "PUT" })).status).toBe(201);
    const got = await fetch(`${url}/v2/team/app/blobs/${digest}`);
    expect([got.headers.get("content-length"), got.headers.get("content-encoding")]).toEqual([String(bytes.byteLength), null]);
    expect(got.headers.get("content-security-policy")).toBe("sandbox");
    expect(Buffer.from(await got.arrayBuffer()).equals(bytes)).toBe(true);
    expect((await fetch(`${url}/v2/team/app/blobs/${digest}`, { method: "HEAD" })).headers.get("content-length")).toBe(
      String(bytes.byteLength),
    );
  }
  const manifest = `${url}/v2/team/app/manifests/latest`;
  const put = await fetch(manifest, {
    method: "PUT",
    headers: { "Content-Type": mediaTypes.ociManifest },
    body: image.manifest,
  });
  expect(put.status).toBe(201);
  for (const method of ["GET", "HEAD"]) {
    const got = await fetch(manifest, { method, headers: { "Accept-Encoding": "gzip, br" } });
    expect([got.status, got.headers.get("content-encoding")]).toEqual([200, null]);
    expect(got.headers.get("content-length")).toBe(String(image.manifest.byteLength));
    expect(got.headers.get("docker-content-digest")).toBe(image.digest);
    const bytes = Buffer.from(await got.arrayBuffer());
    if (method === "GET") expect(bytes.equals(image.manifest)).toBe(true);
  }
}

describe.each([
  ["Express 5", express],
  ["Express 4", express4],
])("%s", (_, framework) => {
  test("beside other routes, after helmet and compression", async () => {
    const app = framework();
    app.use(helmet());
    app.use(compression({ threshold: 0 }));
    app.get("/health", (_request, response) => void response.send("ok ".repeat(1000)));
    app.use(nodeHandler(emptyRegistry(), { anonymousWrites: true }));
    app.use((_request, response) => void response.status(418).send("the host's own"));
    const { url } = await listening(app);
    await pushAndPull(url);
    expect((await fetch(`${url}/health`)).headers.get("content-encoding")).not.toBeNull();
    expect((await fetch(`${url}/other`)).status).toBe(418);
    expect((await fetch(`${url}/v2/app/nothing`)).status).toBe(404);
  });

  test("mounted with a path, the whole path counts", async () => {
    const app = framework();
    app.use("/v2", nodeHandler(emptyRegistry(), { anonymousWrites: true }));
    const { url } = await listening(app);
    await pushAndPull(url);
  });

  test("the caller is the host's, and the address heeds trust proxy", async () => {
    const app = framework();
    app.set("trust proxy", true);
    const addresses: (string | undefined)[] = [];
    app.use((request: express.Request & { user?: { name: string } }, _response, next) => {
      if (request.headers.authorization === "Bearer ci") request.user = { name: "ci" };
      next();
    });
    app.use(
      nodeHandler(emptyRegistry(), {
        caller: (request: express.Request & { user?: { name: string } }) => request.user,
        authorize: ({ caller }) => caller?.name === "ci",
        events: {
          emit(_type, event) {
            if ("address" in event) addresses.push(event.address);
          },
        },
      }),
    );
    const { url } = await listening(app);
    const ask = (headers: Record<string, string>) => fetch(`${url}/v2/_catalog`, { headers });
    expect((await ask({})).status).toBe(401);
    expect((await ask({ Authorization: "Bearer ci", "X-Forwarded-For": "203.0.113.9" })).status).toBe(200);
    expect(addresses).toContain("203.0.113.9");
  });

  test.each([
    ["raw", () => framework.raw({ type: () => true, limit: "1gb" })],
    ["text", () => framework.text({ type: () => true, limit: "1gb" })],
  ])("a body parser before it (%s) is named in the error", async (_name, parser) => {
    const app = framework();
    app.use(parser());
    app.use(nodeHandler(emptyRegistry(), { anonymousWrites: true }));
    const { url } = await listening(app);
    const started = await fetch(`${url}/v2/app/blobs/uploads/`, { method: "POST" });
    const patch = await fetch(url + started.headers.get("location"), { method: "PATCH", body: "abc" });
    expect(patch.status).toBe(500);
    expect(await patch.text()).toContain("mount Manifold before body parsers");
    const manifest = await fetch(`${url}/v2/app/manifests/latest`, { method: "PUT", body: "{}" });
    expect(await manifest.text()).toContain("mount Manifold before body parsers");
  });

  test("a body parser that leaves these types alone does no harm", async () => {
    const app = framework();
    app.use(framework.json());
    app.use(framework.urlencoded({ extended: true }));
    app.use(nodeHandler(emptyRegistry(), { anonymousWrites: true }));
    const { url } = await listening(app);
    await pushAndPull(url);
  });
});

describe.each([
  ["Koa 3", Koa],
  ["Koa 2", Koa2],
])("%s", (_, Framework) => {
  test("beside other routes, after helmet and compression", async () => {
    const app = new Framework();
    const times: number[] = [];
    app.use(async (context, next) => {
      await new Promise<void>((resolve) => helmet()(context.req, context.res, () => resolve()));
      await new Promise<void>((resolve) => compression({ threshold: 0 })(context.req as never, context.res as never, () => resolve()));
      await next();
      times.push(context.res.statusCode);
    });
    app.use(koaHandler(emptyRegistry(), { anonymousWrites: true }));
    app.use((context) => {
      context.status = 418;
      context.body = "the host's own";
    });
    const { url } = await listening(app.callback());
    await pushAndPull(url);
    const other = await fetch(`${url}/other`);
    expect([other.status, await other.text()]).toEqual([418, "the host's own"]);
    expect(times).toContain(201);
  });

  test("a node handler is mounted as it is", async () => {
    const app = new Framework();
    const handler = nodeHandler(emptyRegistry(), { anonymousWrites: true });
    const images = koaHandler(handler);
    await images.ready();
    app.use(images);
    app.use((context) => {
      context.body = "the host's own";
    });
    const { url } = await listening(app.callback());
    await pushAndPull(url);
    expect(await (await fetch(`${url}/other`)).text()).toBe("the host's own");
    await images.close();
    expect((await fetch(`${url}/v2/`)).status).toBe(503);
  });

  test("the caller comes from Koa's context; a read body is named", async () => {
    const app = new Framework();
    app.use(async (context, next) => {
      context.state.user = { name: context.get("x-user") };
      if (context.get("x-read")) for await (const _ of context.req);
      await next();
    });
    app.use(
      koaHandler(emptyRegistry(), {
        caller: (context: Koa.Context) => context.state.user,
        authorize: ({ caller, action }) => action !== "push" || caller?.name === "ci",
      }),
    );
    const { url } = await listening(app.callback());
    const post = (headers: Record<string, string>) =>
      fetch(`${url}/v2/app/blobs/uploads/?digest=${digestOf(Buffer.from("a"))}`, { method: "POST", headers, body: "a" });
    expect((await post({ "x-user": "someone" })).status).toBe(403);
    const read = await post({ "x-user": "ci", "x-read": "1" });
    expect([read.status, (await read.text()).includes("before body parsers")]).toEqual([500, true]);
    expect((await post({ "x-user": "ci" })).status).toBe(201);
  });
});

describe("Fastify 5", () => {
  test("beside other routes, by serverFactory", async () => {
    const images = nodeHandler(emptyRegistry(), { anonymousWrites: true });
    const app = Fastify({
      serverFactory: (fastify) => createServer((request, response) => images(request, response, () => fastify(request, response))),
    });
    app.post("/echo", async (request) => request.body);
    onTestFinished(() => app.close());
    const url = await app.listen({ port: 0, host: "127.0.0.1" });
    await pushAndPull(url);
    const echo = await fetch(`${url}/echo`, { method: "POST", headers: { "Content-Type": "application/json" }, body: '{"a":1}' });
    expect(await echo.json()).toEqual({ a: 1 });
    expect((await fetch(`${url}/other`)).status).toBe(404);
  });

  test("in an onRequest hook, which runs after the host's own", async () => {
    const app = Fastify();
    const images = nodeHandler(emptyRegistry(), { anonymousWrites: true });
    let asked = 0;
    app.addHook("onRequest", async () => void asked++);
    app.addHook("onRequest", (request, reply, done) => {
      if (!/^\/v2(?:[/?]|$)/.test(request.url)) return done();
      reply.hijack();
      images(request.raw, reply.raw);
    });
    app.get("/", async () => "the host's own");
    onTestFinished(() => app.close());
    const url = await app.listen({ port: 0, host: "127.0.0.1" });
    await pushAndPull(url);
    expect(await (await fetch(url)).text()).toBe("the host's own");
    expect(asked).toBeGreaterThan(10);
  });
});
