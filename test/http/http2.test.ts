import { randomBytes } from "node:crypto";
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  createSecureServer,
  createServer,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
  type OutgoingHttpHeaders,
} from "node:http2";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { mediaTypes, type Registry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { type NodeHandlerOptions, nodeHandler } from "oci-manifold/node";
import { expect, onTestFinished, test, vi } from "vitest";
import { makeImage } from "../fixtures/images.js";
import { emptyRegistry, overriding, recorder } from "./support.js";

type Headers = IncomingHttpHeaders & IncomingHttpStatusHeader;

interface Answer {
  readonly headers: Headers;
  readonly body: Buffer;
  /** How the stream ended. */
  readonly code: number | undefined;
}

async function site(registry: Registry = emptyRegistry(), options: NodeHandlerOptions = { anonymousWrites: true }) {
  const handler = nodeHandler(registry, options);
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const session = connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  onTestFinished(() => {
    session.destroy();
    server.close();
  });
  return { registry, handler, session, ask: (headers: OutgoingHttpHeaders, body?: Uint8Array) => ask(session, headers, body) };
}

/** One request; a body is sent without a length unless the headers name one. */
function ask(session: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: Uint8Array): Promise<Answer> {
  const stream = session.request(headers, { endStream: body === undefined });
  if (body) stream.end(body);
  return answerTo(stream);
}

function answerTo(stream: ClientHttp2Stream): Promise<Answer> {
  return new Promise((resolve) => {
    let headers: Headers = {};
    const chunks: Buffer[] = [];
    stream.on("response", (received) => {
      headers = received;
    });
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("error", () => {});
    stream.on("close", () => resolve({ headers, body: Buffer.concat(chunks), code: stream.rstCode }));
  });
}

/** A registry whose blobs come from this source, of a declared size. */
function streaming(size: number, open: () => Readable): Registry {
  const descriptor = { mediaType: mediaTypes.octetStream, digest: digestOf(Buffer.from("any")), size };
  return overriding(emptyRegistry(), {
    getBlob: async () => ({ kind: "found", value: { descriptor, content: { kind: "stream", open } }, served: { member: ["test"] } }),
  });
}

const blobPath = `/v2/app/blobs/${digestOf(Buffer.from("any"))}`;

test.each([true, false])("a push by POST, PATCH and PUT (with Content-Length: %s), and a pull", async (announced) => {
  const events = recorder();
  const { ask } = await site(undefined, { anonymousWrites: true, events });
  const image = makeImage([300_000]);
  const length = (bytes: Uint8Array) => (announced ? { "content-length": bytes.byteLength } : {});
  for (const [digest, bytes] of image.blobs) {
    const started = await ask({ ":method": "POST", ":path": "/v2/team/app/blobs/uploads/", ...(announced && { "content-length": 0 }) });
    expect(started.headers[":status"]).toBe(202);
    const location = String(started.headers.location);
    const patched = await ask({ ":method": "PATCH", ":path": location, ...length(bytes) }, bytes);
    expect([patched.headers[":status"], patched.headers.range]).toEqual([202, `0-${bytes.byteLength - 1}`]);
    // Only the frame says that there is no body: the Content-Range of an empty PUT then means nothing.
    const put = await ask({ ":method": "PUT", ":path": `${location}?digest=${digest}`, "content-range": `0-${bytes.byteLength - 1}` });
    expect(put.headers[":status"]).toBe(201);
    const got = await ask({ ":path": `/v2/team/app/blobs/${digest}` });
    expect([got.headers[":status"], got.headers["content-length"], got.code]).toEqual([200, String(bytes.byteLength), 0]);
    expect(got.body.equals(bytes)).toBe(true);
    const head = await ask({ ":method": "HEAD", ":path": `/v2/team/app/blobs/${digest}` });
    expect([head.headers["content-length"], head.body.byteLength]).toEqual([String(bytes.byteLength), 0]);
    const fresh = await ask({ ":path": `/v2/team/app/blobs/${digest}`, "if-none-match": `"${digest}"` });
    expect([fresh.headers[":status"], fresh.body.byteLength]).toEqual([304, 0]);
  }
  const path = "/v2/team/app/manifests/latest";
  const stored = await ask(
    { ":method": "PUT", ":path": path, "content-type": mediaTypes.ociManifest, ...length(image.manifest) },
    image.manifest,
  );
  expect(stored.headers[":status"]).toBe(201);
  expect((await ask({ ":path": path })).body.equals(image.manifest)).toBe(true);
  await vi.waitFor(() => expect(events.of("request")).toHaveLength(14));
  expect(events.of("request").filter(({ aborted }) => aborted)).toEqual([]);
  expect(events.of("request").at(-1)).toMatchObject({ status: 200, bytes: image.manifest.byteLength, url: path, address: "127.0.0.1" });
});

test("errors, other paths and methods", async () => {
  const { ask } = await site();
  const missing = await ask({ ":path": "/v2/app/manifests/none" });
  expect([missing.headers[":status"], missing.body.toString()]).toEqual([404, expect.stringContaining("MANIFEST_UNKNOWN")]);
  const elsewhere = await ask({ ":path": "/metrics" });
  expect([elsewhere.headers[":status"], elsewhere.body.toString()]).toEqual([404, expect.stringContaining("NAME_UNKNOWN")]);
  const head = await ask({ ":method": "HEAD", ":path": "/metrics" });
  expect([head.headers[":status"], head.body.byteLength]).toEqual([404, 0]);
  expect((await ask({ ":method": "PATCH", ":path": "/v2/" }, Buffer.from("x"))).headers[":status"]).toBe(405);
  expect((await ask({ ":path": "/v2/" })).headers.connection).toBeUndefined();
});

test.each([
  ["before the body is read", "POST", (digest: string) => `/v2/closed/blobs/uploads/?digest=${digest}`, 401],
  ["in the middle of the body", "PUT", () => "/v2/open/manifests/1", 413],
])("a push that is refused %s ends, though its body is still coming", async (_, method, path, status) => {
  const events = recorder();
  const { session } = await site(undefined, {
    events,
    authorize: ({ repository }) => repository === "open",
  });
  // Far beyond the window of a stream, 64 KiB.
  const body = randomBytes(6 * 1024 * 1024);
  const stream = session.request({ ":method": method, ":path": path(digestOf(body)) }, { endStream: false });
  const answered = answerTo(stream);
  Readable.from([body.subarray(0, 5 * 1024 * 1024), body.subarray(5 * 1024 * 1024)]).pipe(stream);
  const { headers } = await answered;
  expect(headers[":status"]).toBe(status);
  await vi.waitFor(() => expect(events.of("request")).toMatchObject([{ status, aborted: false }]));
  // The session is as good as before.
  expect((await ask(session, { ":path": "/v2/open/tags/list" })).headers[":status"]).toBe(404);
});

test("a client that resets its upload leaves what came, and no whole body", async () => {
  const events = recorder();
  const { session, ask } = await site(undefined, { anonymousWrites: true, events });
  const bytes = randomBytes(100_000);
  const location = String((await ask({ ":method": "POST", ":path": "/v2/app/blobs/uploads/" })).headers.location);
  const target = `${location}?digest=${digestOf(bytes)}`;
  const stream = session.request({ ":method": "PUT", ":path": target }, { endStream: false });
  stream.on("error", () => {});
  // Were the cut taken for the end, this would be the whole blob.
  stream.write(bytes);
  await new Promise((resolve) => setTimeout(resolve, 50));
  // Not by close(): Node's client ends its body before it resets the stream.
  stream.destroy(new Error("cut"));
  await vi.waitFor(() => expect(events.of("request")).toHaveLength(2));
  expect(events.of("request")[1]).toMatchObject({ method: "PUT", aborted: true });
  expect((await ask({ ":path": `/v2/app/blobs/${digestOf(bytes)}` })).headers[":status"]).toBe(404);
  await vi.waitFor(async () => {
    const status = await ask({ ":path": location });
    expect([status.headers[":status"], status.headers.range]).toEqual([204, "0-99999"]);
  });
  expect((await ask({ ":method": "PUT", ":path": target })).headers[":status"]).toBe(201);
});

test("a body that was cut short before anybody read it is no empty body", async () => {
  const outcomes: string[] = [];
  const base = emptyRegistry();
  const registry = overriding(base, {
    async putBlob(_repository, _expected, source) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      try {
        for await (const _ of source);
        outcomes.push("ended");
      } catch {
        outcomes.push("failed");
      }
      throw new Error("nobody hears this");
    },
  });
  const { session } = await site(registry);
  const path = `/v2/app/blobs/uploads/?digest=${digestOf(Buffer.alloc(0))}`;
  const stream = session.request({ ":method": "POST", ":path": path }, { endStream: false });
  stream.on("error", () => {});
  stream.write(Buffer.alloc(10));
  await new Promise((resolve) => setTimeout(resolve, 30));
  stream.destroy(new Error("cut"));
  await vi.waitFor(() => expect(outcomes).toEqual(["failed"]));
});

test("a request that ends with its headers has a body of no bytes, one that does not has one of unknown length", async () => {
  const base = emptyRegistry();
  const sizes: (number | undefined)[] = [];
  const registry = overriding(base, {
    putBlob(repository, expected, ...rest) {
      sizes.push(expected.size);
      return base.putBlob(repository, expected, ...rest);
    },
  });
  const { ask } = await site(registry);
  const path = (bytes: Uint8Array) => `/v2/app/blobs/uploads/?digest=${digestOf(bytes)}`;
  expect((await ask({ ":method": "POST", ":path": path(Buffer.alloc(0)) })).headers[":status"]).toBe(201);
  expect((await ask({ ":method": "POST", ":path": path(Buffer.from("abc")) }, Buffer.from("abc"))).headers[":status"]).toBe(201);
  expect(sizes).toEqual([0, undefined]);
});

test("a client that resets its download stops the source", async () => {
  const events = recorder();
  const chunk = Buffer.alloc(64 * 1024);
  const source = Readable.from(
    (function* () {
      for (let i = 0; i < 1000; i++) yield chunk;
    })(),
  );
  const { session } = await site(
    streaming(1000 * chunk.byteLength, () => source),
    { events },
  );
  const stream = session.request({ ":path": blobPath });
  await new Promise((resolve) => stream.once("data", resolve));
  stream.close(constants.NGHTTP2_CANCEL);
  await vi.waitFor(() => expect(source.destroyed).toBe(true));
  await vi.waitFor(() => expect(events.of("request")).toMatchObject([{ status: 200, aborted: true }]));
});

test.each([
  ["fewer", 300],
  ["more", 150],
])("a source that gives %s bytes than declared resets the stream with an error", async (_, size) => {
  const events = recorder();
  const { ask } = await site(
    streaming(size, () => Readable.from([Buffer.alloc(100), Buffer.alloc(100)])),
    { events },
  );
  const got = await ask({ ":path": blobPath });
  // NO_ERROR would be a good end for many clients.
  expect(got.code).toBe(constants.NGHTTP2_INTERNAL_ERROR);
  await vi.waitFor(() => expect(events.of("request")).toMatchObject([{ aborted: true }]));
});

test("close refuses without a Connection header, and ends the session", async () => {
  const warned = vi.spyOn(process, "emitWarning");
  onTestFinished(() => warned.mockRestore());
  let release = () => {};
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const registry = overriding(emptyRegistry(), {
    async listTags() {
      await gate;
      return { kind: "absent" };
    },
  });
  const { handler, session, ask } = await site(registry);
  const running = ask({ ":path": "/v2/app/tags/list" });
  await new Promise((resolve) => setTimeout(resolve, 30));
  const closing = handler.close({ deadline: "10s" });
  const away = new Promise((resolve) => session.once("goaway", resolve));
  const refused = await ask({ ":path": "/v2/" });
  expect([refused.headers[":status"], refused.headers.connection, refused.headers["retry-after"]]).toEqual([503, undefined, "1"]);
  await away;
  release();
  // What ran goes on to its end.
  expect((await running).headers[":status"]).toBe(404);
  await closing;
  expect(warned.mock.calls.filter(([warning]) => String(warning).includes("connection header"))).toEqual([]);
});

test("close breaks off what runs at the deadline", async () => {
  const source = new Readable({ read() {} });
  source.push(Buffer.alloc(100));
  const { handler, session } = await site(streaming(1000, () => source));
  const got = answerTo(session.request({ ":path": blobPath }));
  await new Promise((resolve) => setTimeout(resolve, 50));
  await handler.close({ deadline: "20ms" });
  expect((await got).code).toBe(constants.NGHTTP2_INTERNAL_ERROR);
  expect(source.destroyed).toBe(true);
});

test("the handler is a listener of each kind of server, without casts", () => {
  const images = nodeHandler(emptyRegistry(), { caller: (request) => (request.headers["x-user"] ? { name: "ci" } : undefined) });
  createServer(images).close();
  createSecureServer({ allowHTTP1: true }, images).close();
});
