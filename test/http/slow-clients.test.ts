import { connect } from "node:net";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Registry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { type FakeClock, fakeClock } from "oci-manifold/testing";
import { expect, test, vi } from "vitest";
import { emptyRegistry, overriding, recorder, site } from "./support.js";

const bytes = (size: number) => Buffer.alloc(size);

/** Time goes on until this holds. */
function whileTimePasses(clock: FakeClock, check: () => void): Promise<void> {
  return vi.waitFor(
    async () => {
      await clock.advance(5000);
      check();
    },
    { timeout: 15_000, interval: 5 },
  );
}

test("an upload that stops: 408, the connection ends, what arrived is kept and can be gone on with at once", async () => {
  const clock = fakeClock();
  const base = emptyRegistry();
  let received = 0;
  const registry = overriding(base, {
    async resumeUpload(...args) {
      const session = await base.resumeUpload(...args);
      const append = session.append.bind(session);
      session.append = (source, o) => append(counted(source), o);
      return session;
    },
  });
  async function* counted(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of source) {
      received += chunk.byteLength;
      yield chunk;
    }
  }
  const events = recorder();
  const { port, fetch } = await site(registry, { clock, anonymousWrites: true, events });
  const started = await fetch("/v2/app/blobs/uploads/", { method: "POST" });
  const location = started.headers.get("location") ?? "";
  let answer = "";
  let ended = false;
  const socket = connect(port, "127.0.0.1", () => {
    socket.write(`PATCH ${location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n${"a".repeat(100)}`);
  });
  socket.on("data", (chunk) => {
    answer += chunk;
  });
  socket.on("close", () => {
    ended = true;
  });
  await vi.waitFor(() => expect(received).toBe(100));
  await whileTimePasses(clock, () => expect(ended).toBe(true));
  expect(answer).toMatch(/^HTTP\/1\.1 408 /);
  expect(answer).toMatch(/\r\nConnection: close\r\n/);
  expect(answer).toContain('"code":"UNAVAILABLE"');
  const status = await fetch(location);
  expect([status.status, status.headers.get("range")]).toEqual([204, "0-99"]);
  const headers = { "Content-Range": "100-999", "Content-Type": "application/octet-stream" };
  expect((await fetch(location, { method: "PATCH", headers, body: "a".repeat(900) })).status).toBe(202);
  const done = await fetch(`${location}?digest=${digestOf(Buffer.from("a".repeat(1000)))}`, { method: "PUT" });
  expect(done.status).toBe(201);
  expect(events.of("fault")).toEqual([]);
});

const large = 64 * 2 ** 20;
const anyDigest = digestOf(bytes(0));
const descriptor = { mediaType: "application/octet-stream", digest: anyDigest, size: large };

function giving(content: Extract<Awaited<ReturnType<Registry["getBlob"]>>, { kind: "found" }>["value"]["content"]): Registry {
  return overriding(emptyRegistry(), {
    getBlob: async () => ({ kind: "found", value: { descriptor, content }, served: { member: ["test"] } }),
  });
}

/** Pieces of a MiB, `large` in all. */
function largeStream(): Readable {
  let left = large / 2 ** 20;
  const piece = bytes(2 ** 20);
  return new Readable({
    read() {
      this.push(left-- > 0 ? piece : null);
    },
  });
}

const get = `GET /v2/app/blobs/${anyDigest} HTTP/1.1\r\nHost: x\r\n\r\n`;

test("a download that is not read is broken off, and its source with it", async () => {
  const clock = fakeClock();
  const events = recorder();
  const source = largeStream();
  const { port } = await site(giving({ kind: "stream", open: () => source }), { clock, events });
  const socket = connect(port, "127.0.0.1", () => socket.write(get));
  await whileTimePasses(clock, () => expect(source.destroyed).toBe(true));
  await vi.waitFor(() => expect(events.of("request")).toMatchObject([{ status: 200, aborted: true }]));
  const closed = new Promise((resolve) => socket.once("close", resolve));
  socket.on("error", () => {}).resume();
  await closed;
  expect(events.of("fault")).toEqual([]);
});

test("a response at hand that is not read is broken off too", async () => {
  const clock = fakeClock();
  const events = recorder();
  const { port } = await site(giving({ kind: "bytes", bytes: bytes(large) }), { clock, events });
  const socket = connect(port, "127.0.0.1", () => socket.write(get));
  await whileTimePasses(clock, () => expect(events.of("request")).toMatchObject([{ status: 200, aborted: true }]));
  socket.on("error", () => {}).destroy();
});

test.each([
  ["a stream", () => giving({ kind: "stream", open: largeStream })],
  ["at hand", () => giving({ kind: "bytes", bytes: bytes(large) })],
])("a slow reader gets everything (%s)", async (_, registry) => {
  const clock = fakeClock();
  const { port } = await site(registry(), { clock });
  const socket = connect(port, "127.0.0.1", () => socket.write(get));
  let received = 0;
  let ended = false;
  socket.on("close", () => {
    ended = true;
  });
  while (received < large && !ended) {
    for (const until = received + 4 * 2 ** 20; received < until && received < large && !ended; ) {
      const chunk: Buffer | null = socket.read();
      received += chunk?.byteLength ?? 0;
      if (!chunk) await Promise.race([new Promise((resolve) => socket.once("readable", resolve)), sleep(50)]);
    }
    // What the reader lets through has to be sent before time goes on.
    await sleep(5);
    await clock.advance(10_000);
  }
  expect(received).toBeGreaterThanOrEqual(large);
  socket.destroy();
});

test("a source that is slow is not the reader's fault", async () => {
  const clock = fakeClock();
  const source = new Readable({ read() {} });
  const registry = overriding(emptyRegistry(), {
    getBlob: async () => ({
      kind: "found",
      value: { descriptor: { ...descriptor, size: 20 }, content: { kind: "stream", open: () => source } },
      served: { member: ["test"] },
    }),
  });
  const { fetch } = await site(registry, { clock });
  const got = fetch(`/v2/app/blobs/${anyDigest}`);
  await vi.waitFor(() => expect(source.listenerCount("data")).toBe(1));
  for (let i = 0; i < 2; i++) {
    await clock.advance(3_600_000);
    source.push(bytes(10));
  }
  source.push(null);
  expect((await (await got).arrayBuffer()).byteLength).toBe(20);
});
