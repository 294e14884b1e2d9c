import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { chunksOf, digestOf } from "oci-manifold";
import { nodeHandler } from "oci-manifold/node";
import { expect, test, vi } from "vitest";
import { emptyRegistry, errorCode, overriding, site } from "./support.js";

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
