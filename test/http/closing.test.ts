import { randomBytes } from "node:crypto";
import { statSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { Readable } from "node:stream";
import { localRegistry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { nodeHandler } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";
import { expect, onTestFinished, test, vi } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { emptyRegistry, errorCode, overriding, type Site, site } from "./support.js";

test("ready and close reach the registry; close is idempotent", async () => {
  const base = emptyRegistry();
  const ready = vi.fn(base.ready);
  const close = vi.fn(base.close);
  const handler = nodeHandler(overriding(base, { ready, close }));
  await handler.ready();
  await Promise.all([handler.close(), handler.close({ deadline: "1s" })]);
  expect([ready.mock.calls.length, close.mock.calls.length]).toEqual([1, 1]);
});

test("close lets running requests end and refuses new ones", async () => {
  const base = emptyRegistry();
  const bytes = randomBytes(10);
  const digest = digestOf(bytes);
  await base.putBlob("app", { digest }, chunksOf(bytes));
  let release = () => {};
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  let closed = false;
  const registry = overriding(base, {
    async getBlob(...args) {
      await gate;
      expect(closed).toBe(false);
      return base.getBlob(...args);
    },
    async close() {
      closed = true;
    },
  });
  const { fetch, handler, url } = await site(registry);
  const running = fetch(`/v2/app/blobs/${digest}`);
  await new Promise((resolve) => setTimeout(resolve, 50));
  const closing = handler.close({ deadline: "10s" });
  const refused = await globalThis.fetch(`${url}/v2/app/tags/list`);
  expect([refused.status, await errorCode(refused), refused.headers.get("connection")]).toEqual([503, "UNAVAILABLE", "close"]);
  expect(refused.headers.get("retry-after")).toBe("1");
  expect(closed).toBe(false);
  release();
  expect(Buffer.from(await (await running).arrayBuffer()).equals(bytes)).toBe(true);
  await closing;
  expect(closed).toBe(true);
});

test("close breaks off what is still running at the deadline", async () => {
  let aborted = false;
  const registry = overriding(emptyRegistry(), {
    listTags: (_repository, _page, o) =>
      new Promise((_, reject) => {
        o?.signal?.addEventListener("abort", () => {
          aborted = true;
          reject(o.signal?.reason);
        });
      }),
  });
  const { port, handler } = await site(registry);
  const socket = connect(port, "127.0.0.1", () => socket.write("GET /v2/app/tags/list HTTP/1.1\r\nHost: x\r\n\r\n"));
  const gone = new Promise((resolve) => socket.once("close", resolve));
  await new Promise((resolve) => setTimeout(resolve, 50));
  await handler.close({ deadline: "50ms" });
  await gone;
  expect(aborted).toBe(true);
});

/** A registry over a folder, as each process that serves it makes one. */
async function overFolder(dir: string): Promise<Site> {
  const on = await site(localRegistry({ storage: fileStorage(dir), name: "test" }));
  onTestFinished(() => on.handler.close({ deadline: "0s" }));
  return on;
}

/** A PATCH of `size` bytes that has brought the store its first ones. */
async function halfUpload(
  on: Site,
  dir: string,
  bytes: Buffer,
  size: number,
): Promise<{ location: string; socket: Socket; answer: Promise<string> }> {
  const started = await on.fetch("/v2/app/blobs/uploads/", { method: "POST" });
  const location = started.headers.get("location") ?? "";
  const staged = join(dir, "uploads", started.headers.get("docker-upload-uuid") ?? "");
  const socket = connect(on.port, "127.0.0.1");
  socket.write(`PATCH ${location} HTTP/1.1\r\nHost: x\r\nContent-Length: ${size}\r\n\r\n`);
  socket.write(bytes);
  socket.on("error", () => {});
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk;
  });
  const answer = new Promise<string>((resolve) => socket.once("close", () => resolve(text)));
  await vi.waitFor(() => expect(statSync(staged).size).toBe(bytes.byteLength));
  return { location, socket, answer };
}

test("an upload in progress may end, and its connection is not kept", async () => {
  const dir = temporaryFolder();
  const on = await overFolder(dir);
  // An idle connection, which nobody waits for.
  await (await on.fetch("/v2/")).text();
  const { socket, answer } = await halfUpload(on, dir, Buffer.alloc(500), 1000);
  let closed = false;
  const closing = on.handler.close({ deadline: "1h" }).then(() => {
    closed = true;
  });
  expect((await on.fetch("/v2/")).status).toBe(503);
  expect(closed).toBe(false);
  socket.write(Buffer.alloc(500));
  const text = await answer;
  expect(text).toMatch(/^HTTP\/1\.1 202 /);
  expect(text).toMatch(/\r\nConnection: close\r\n/);
  expect(text).toMatch(/\r\nRange: 0-999\r\n/);
  await closing;
});

test("a download that takes longer is broken off, and its source with it", async () => {
  const source = new Readable({ read() {} });
  source.push("begun");
  const descriptor = { mediaType: "application/octet-stream", digest: digestOf(Buffer.alloc(0)), size: 10 };
  const registry = overriding(emptyRegistry(), {
    getBlob: async () => ({
      kind: "found",
      value: { descriptor, content: { kind: "stream", open: () => source } },
      served: { member: ["test"] },
    }),
  });
  const { fetch, handler } = await site(registry);
  const got = await fetch(`/v2/app/blobs/${descriptor.digest}`);
  const body = got.text();
  await Promise.all([handler.close({ deadline: "50ms" }), expect(body).rejects.toThrow()]);
  expect(source.destroyed).toBe(true);
});

test("an upload that was broken off keeps what arrived, and the next process goes on with it", async () => {
  const dir = temporaryFolder();
  const bytes = randomBytes(600_000);
  const first = await overFolder(dir);
  const { location, answer } = await halfUpload(first, dir, bytes.subarray(0, 400_000), bytes.byteLength);
  await first.handler.close({ deadline: "50ms" });
  expect(await answer).toBe("");

  const second = await overFolder(dir);
  expect((await second.fetch(location)).headers.get("range")).toBe("0-399999");
  const headers = { "Content-Range": "400000-599999", "Content-Type": "application/octet-stream" };
  expect((await second.fetch(location, { method: "PATCH", headers, body: bytes.subarray(400_000) })).status).toBe(202);
  expect((await second.fetch(`${location}?digest=${digestOf(bytes)}`, { method: "PUT" })).status).toBe(201);
});

test("what cannot be stopped is waited for, but not for ever", async () => {
  const base = emptyRegistry();
  let asked = false;
  let end = () => {};
  const order: string[] = [];
  const registry = overriding(base, {
    async listTags(...args) {
      asked = true;
      await new Promise<void>((resolve) => {
        end = resolve;
      });
      order.push("answered");
      return base.listTags(...args);
    },
    async close() {
      order.push("closed");
    },
  });
  const on = await site(registry);
  const leaving = on.fetch("/v2/app/tags/list").catch(() => "gone");
  await vi.waitFor(() => expect(asked).toBe(true));
  const closing = on.handler.close({ deadline: "0s" });
  expect(await leaving).toBe("gone");
  expect(order).toEqual([]);
  end();
  await closing;
  expect(order).toEqual(["answered", "closed"]);
});
