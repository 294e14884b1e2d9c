import { once } from "node:events";
import { readdirSync, readlinkSync } from "node:fs";
import { connect as connectHttp2, constants, type ServerHttp2Stream } from "node:http2";
import { connect, type Socket } from "node:net";
import type { Readable } from "node:stream";
import type { Registry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { fakeClock } from "oci-manifold/testing";
import { expect, onTestFinished, test, vi } from "vitest";
import { makeImage } from "../fixtures/images.js";
import { type Protocol, protocols, type Stack, stack } from "./stack.js";

const MiB = 2 ** 20;
const digestHeader = (path: string) => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`;

/** Counts what a registry is asked for and what of it is open. */
class Spy {
  readonly asked: string[] = [];
  readonly sources: Readable[] = [];
  /** What has not been answered yet. */
  running = 0;

  readonly wrap = (registry: Registry): Registry => ({
    ...registry,
    getManifest: (...args) => this.#counted(() => registry.getManifest(...args)),
    getBlob: (...args) =>
      this.#counted(async () => {
        const lookup = await registry.getBlob(...args);
        if (lookup.kind !== "found" || lookup.value.content.kind !== "stream") return lookup;
        const { content } = lookup.value;
        const open = () => {
          const source = content.open();
          this.sources.push(source);
          return source;
        };
        return { ...lookup, value: { ...lookup.value, content: { kind: "stream", open } } };
      }),
  });

  get open(): number {
    return this.sources.filter(({ destroyed }) => !destroyed).length;
  }

  async #counted<T>(work: () => Promise<T>): Promise<T> {
    this.asked.push("");
    this.running++;
    try {
      return await work();
    } finally {
      this.running--;
    }
  }
}

/** The files below the folder of stored blobs that this process has open. */
function openBlobs(folder: string): number {
  const files = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return "";
    }
  });
  return files.filter((file) => file.startsWith(`${folder}/blobs/`)).length;
}

/** The server's sides of connections, as they come. */
function connectionsOf({ server }: Stack): Socket[] {
  const sockets: Socket[] = [];
  server.on("connection", (socket: Socket) => sockets.push(socket));
  return sockets;
}

/** A client that sends this and reads nothing. */
async function unread(port: number, text: string): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  onTestFinished(() => void socket.destroy());
  await once(socket, "connect");
  socket.pause();
  socket.write(text);
  return socket;
}

/** Nothing happens any more on a connection that the system takes no more for: the same bytes have been waiting for a while of turns. */
async function held(socket: Socket): Promise<number> {
  let same = 0;
  let last = -1;
  await vi.waitFor(
    () => {
      const now = socket.bytesWritten;
      same = now === last && socket.writableLength > 0 ? same + 1 : 0;
      last = now;
      expect(same).toBeGreaterThan(20);
    },
    { interval: 5, timeout: 20_000 },
  );
  return socket.writableLength;
}

async function pushedBlob(on: Stack, size: number): Promise<string> {
  const bytes = Buffer.alloc(size, 7);
  expect((await on.putBlob("release/app", bytes)).status).toBe(201);
  return `/v2/release/app/blobs/${digestOf(bytes)}`;
}

/** An image whose manifest is a little larger than this. */
const imageOf = (size: number) => makeImage([10], { annotations: { padding: "x".repeat(size) } });

async function pushedManifest(on: Stack): Promise<string> {
  await on.pushImage("release/app", "big", imageOf(3_000_000));
  return "/v2/release/app/manifests/big";
}

test("5,000 GETs of a large blob on a connection that is not read open one file and hold 64 KiB", async () => {
  const spy = new Spy();
  const on = await stack({ wrap: (route, registry) => (route === "release" ? spy.wrap(registry) : registry) });
  const path = await pushedBlob(on, 30 * MiB);
  let parsed = 0;
  on.server.on("request", () => parsed++);
  const sockets = connectionsOf(on);
  const client = await unread(on.port, digestHeader(path).repeat(5000));
  await vi.waitFor(() => expect(sockets.length).toBe(1));
  const [side] = sockets;
  if (!side) throw new Error("no connection");
  expect(await held(side)).toBeLessThanOrEqual(64 * 1024);
  expect([spy.asked.length, spy.open, openBlobs(on.folder)]).toEqual([1, 1, 1]);
  // One read of the system's beyond the hundred that may wait.
  expect(parsed).toBeLessThan(100 + (64 * 1024) / digestHeader(path).length + 2);
  expect((await on.ask("GET", "/v2/")).status).toBe(200);
  expect((await on.ask("HEAD", path)).status).toBe(200);
  client.destroy();
  await vi.waitFor(() => expect([spy.open, openBlobs(on.folder)]).toEqual([0, 0]));
  expect(spy.asked.length).toBe(1);
});

test("manifests of 3 MB on a connection that is not read hand it 64 KiB, and are whole for those who read (HTTP/1.1)", async () => {
  const on = await stack();
  const path = await pushedManifest(on);
  const sockets = connectionsOf(on);
  // More than the system takes for a connection by itself.
  await unread(on.port, digestHeader(path).repeat(10));
  await vi.waitFor(() => expect(sockets.length).toBe(1));
  const [side] = sockets;
  expect(side && (await held(side))).toBeLessThanOrEqual(64 * 1024);
  const { headers, body } = await on.ask("GET", path);
  expect([digestOf(body), body.byteLength]).toEqual([headers["docker-content-digest"], Number(headers["content-length"])]);
});

test("40 streams of manifests of 3 MB that are not read are handed 64 KiB each (HTTP/2)", async () => {
  const on = await stack({ front: "HTTP/2" });
  const path = await pushedManifest(on);
  const opened: ServerHttp2Stream[] = [];
  on.server.on("stream", (stream: ServerHttp2Stream) => opened.push(stream));
  const session = connectHttp2(`http://127.0.0.1:${on.port}`, { settings: { initialWindowSize: 0 } });
  onTestFinished(() => session.destroy());
  session.on("error", () => {});
  const answers = Array.from({ length: 40 }, () => {
    const stream = session.request({ ":path": path });
    stream.on("error", () => {});
    return once(stream, "response");
  });
  await Promise.all(answers);
  expect(opened).toHaveLength(40);
  for (const { writableLength } of opened) expect(writableLength).toBeLessThanOrEqual(64 * 1024);
  const { headers, body } = await on.ask("GET", path);
  expect([digestOf(body), body.byteLength]).toEqual([headers["docker-content-digest"], Number(headers["content-length"])]);
});

test.each([
  ["manifests of 3 MB", (on: Stack) => pushedManifest(on), {}],
  ["several ranges of a blob", (on: Stack) => pushedBlob(on, 30 * MiB), { range: "bytes=0-9999999,15000000-29999999" }],
])("pipelined GETs of %s are looked up one after the other", async (_, pushed, headers: { range?: string }) => {
  const spy = new Spy();
  const on = await stack({ wrap: (route, registry) => (route === "release" ? spy.wrap(registry) : registry) });
  const path = await pushed(on);
  const before = spy.asked.length;
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const sockets = connectionsOf(on);
  const client = await unread(on.port, `GET ${path} HTTP/1.1\r\nHost: x\r\n${lines.join("")}\r\n`.repeat(1000));
  await vi.waitFor(() => expect(sockets.length).toBe(1));
  if (sockets[0]) await held(sockets[0]);
  expect(spy.asked.length - before).toBeLessThanOrEqual(4);
  expect(spy.open).toBeLessThanOrEqual(1);
  client.destroy();
  await vi.waitFor(() => expect(spy.open).toBe(0));
});

test("pipelined pulls through a connector keep one upstream connection", async () => {
  const on = await stack();
  const { digest } = on.upstream.addBlob("app", Buffer.alloc(20 * MiB, 3));
  const sockets = connectionsOf(on);
  await unread(on.port, digestHeader(`/v2/hub/app/blobs/${digest}`).repeat(500));
  await vi.waitFor(() => expect(sockets.length).toBe(1));
  if (sockets[0]) expect(await held(sockets[0])).toBeLessThanOrEqual(64 * 1024);
  expect(on.upstream.requests.filter(({ method, url }) => method === "GET" && url.includes("/blobs/")).length).toBe(1);
});

test("pipelined uploads are begun one after the other, and all are answered in order", async () => {
  let most = 0;
  let running = 0;
  const wrap = (_: string, registry: Registry): Registry => ({
    ...registry,
    async putBlob(...args) {
      most = Math.max(most, ++running);
      try {
        return await registry.putBlob(...args);
      } finally {
        running--;
      }
    },
  });
  const on = await stack({ wrap });
  const bodies = Array.from({ length: 300 }, (_, index) => `blob ${index}`);
  const client = connect(on.port, "127.0.0.1");
  onTestFinished(() => void client.destroy());
  let text = "";
  client.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  for (const body of bodies) {
    const path = `/v2/release/app/blobs/uploads/?digest=${digestOf(Buffer.from(body))}`;
    client.write(`POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  }
  const digests = () => [...text.matchAll(/Docker-Content-Digest: (\S+)/g)].map(([, digest]) => digest);
  await vi.waitFor(() => expect(digests()).toEqual(bodies.map((body) => digestOf(Buffer.from(body)))), { timeout: 20_000 });
  expect(most).toBe(1);
});

test("a client that pipelines and reads gets everything, in order", async () => {
  const on = await stack();
  const path = await pushedBlob(on, 100_000);
  const client = connect(on.port, "127.0.0.1");
  onTestFinished(() => void client.destroy());
  let received = 0;
  client.on("data", (chunk: Buffer) => {
    received += chunk.byteLength;
  });
  client.write(digestHeader(path).repeat(1500));
  client.write(`GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
  await once(client, "close");
  expect(received).toBeGreaterThan(150_000_000);
});

test.each([true, false])("many streams of HTTP/2 that are not read open a hundred files (tuned server: %s)", async (tuned) => {
  const spy = new Spy();
  const on = await stack({ front: "HTTP/2", tuned, wrap: (route, registry) => (route === "release" ? spy.wrap(registry) : registry) });
  const path = await pushedBlob(on, 30 * MiB);
  const session = connectHttp2(`http://127.0.0.1:${on.port}`, { settings: { initialWindowSize: 0 } });
  onTestFinished(() => session.destroy());
  session.on("error", () => {});
  const codes: number[] = [];
  // Node itself breaks off a session that has a thousand streams refused.
  const streams = tuned ? 2000 : 600;
  for (let i = 0; i < streams; i++) {
    const stream = session.request({ ":path": path });
    stream.on("error", () => {});
    stream.on("close", () => codes.push(stream.rstCode));
  }
  await vi.waitFor(() => expect(spy.open).toBe(100), { timeout: 10_000 });
  expect((await on.ask("GET", "/v2/")).status).toBe(200);
  // A client that was told of the limit keeps the others to itself; what another sends is refused.
  if (!tuned) await vi.waitFor(() => expect(codes.length).toBe(500), { timeout: 10_000 });
  expect(codes.every((code) => code === constants.NGHTTP2_REFUSED_STREAM)).toBe(true);
  expect([spy.asked.length, spy.open, openBlobs(on.folder)]).toEqual([100, 100, 100]);
  expect(session.remoteSettings.maxConcurrentStreams).toBe(100);
  session.destroy();
  await vi.waitFor(() => expect([spy.open, openBlobs(on.folder)]).toEqual([0, 0]));
});

test("a host that allows fewer streams keeps its own limit", async () => {
  const { createServer } = await import("node:http2");
  const { tuneServer } = await import("oci-manifold/node");
  const server = tuneServer(createServer({ settings: { maxConcurrentStreams: 10 } }));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  const session = connectHttp2(`http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`);
  onTestFinished(() => {
    session.destroy();
    server.close();
  });
  await once(session, "remoteSettings");
  expect(session.remoteSettings.maxConcurrentStreams).toBe(10);
});

test.each([true, false])("streams that are reset at once do not pile up work (tuned server: %s)", async (tuned) => {
  let asked = 0;
  let end = () => {};
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  // Work that does not look at its signal.
  const wrap = (_: string, registry: Registry): Registry => ({
    ...registry,
    async getManifest(...args) {
      asked++;
      await ended;
      return registry.getManifest(...args);
    },
  });
  const on = await stack({ front: "HTTP/2", tuned, wrap });
  const session = connectHttp2(`http://127.0.0.1:${on.port}`);
  onTestFinished(() => session.destroy());
  session.on("error", () => {});
  let closed = 0;
  for (let round = 0; round < 8; round++) {
    const opened = Array.from({ length: 50 }, () => session.request({ ":path": "/v2/release/app/manifests/latest" }));
    for (const stream of opened) stream.on("error", () => {}).on("close", () => closed++);
    // The server has seen them before they are reset.
    await new Promise((resolve) => session.ping(resolve));
    for (const stream of opened) stream.close(constants.NGHTTP2_CANCEL);
    await vi.waitFor(() => expect(closed).toBe((round + 1) * 50));
  }
  expect(asked).toBe(100);
  end();
  await vi.waitFor(async () => {
    const stream = session.request({ ":path": "/v2/release/app/manifests/latest" });
    stream.on("error", () => {});
    const [headers] = await once(stream, "response");
    expect(headers[":status"]).toBe(404);
  });
});

/** A manifest as it is sent, ten bytes short of its end. */
async function shortOfTen(on: Stack, protocol: Protocol, size: number): Promise<{ status: Promise<number>; end(): void }> {
  const path = "/v2/release/app/manifests/latest";
  const body = Buffer.alloc(size - 10, "a");
  if (protocol === "HTTP/2") {
    const session = connectHttp2(`http://127.0.0.1:${on.port}`);
    session.on("error", () => {});
    onTestFinished(() => session.destroy());
    const stream = session.request({ ":method": "PUT", ":path": path, "content-length": String(size) });
    stream.on("error", () => {});
    stream.write(body);
    return { status: once(stream, "response").then(([headers]) => Number(headers[":status"])), end: () => session.destroy() };
  }
  const socket = connect(on.port, "127.0.0.1", () => {
    socket.write(`PUT ${path} HTTP/1.1\r\nHost: x\r\nContent-Length: ${size}\r\n\r\n`);
    socket.write(body);
  });
  socket.on("error", () => {});
  onTestFinished(() => void socket.destroy());
  const status = once(socket, "data").then(([chunk]) => Number(/^HTTP\/1\.1 (\d+)/.exec(String(chunk))?.[1]));
  return { status, end: () => socket.destroy() };
}

test.each(protocols)("manifests that stay ten bytes short of their end hold no more than the budget (%s)", async (protocol) => {
  const clock = fakeClock();
  const on = await stack({ front: protocol, handler: { maxBuffered: "8MiB", idleTimeout: "0s", minimumThroughput: "0B", clock } });
  const puts = await Promise.all(Array.from({ length: 6 }, () => shortOfTen(on, protocol, 1_200_000)));
  const statuses: number[] = [];
  for (const { status } of puts) status.then((code) => statuses.push(code)).catch(() => {});
  // Half of the budget is one address's: three fit in it. The others wait for a while of the clock's, and are then refused one after the other.
  await vi.waitFor(
    async () => {
      await clock.advance(200);
      expect(statuses).toEqual([429, 429, 429]);
    },
    { timeout: 20_000, interval: 5 },
  );
  for (const { end } of puts) end();
  const { manifest } = await on.pushImage("release/app", "latest", imageOf(2_000_000));
  expect((await on.ask("GET", "/v2/release/app/manifests/latest")).body.equals(manifest)).toBe(true);
});

test.each(protocols)("responses that are not read count, wait for others to be read, and are then 429 (%s)", async (protocol) => {
  const clock = fakeClock();
  const on = await stack({ front: protocol, handler: { maxBuffered: "8MiB", idleTimeout: "0s", minimumThroughput: "0B", clock } });
  const path = await pushedManifest(on);
  const sockets = connectionsOf(on);
  const session = protocol === "HTTP/2" ? connectHttp2(`http://127.0.0.1:${on.port}`, { settings: { initialWindowSize: 0 } }) : undefined;
  const client = session ?? (await unread(on.port, digestHeader(path).repeat(10)));
  client.on("error", () => {});
  onTestFinished(() => void client.destroy());
  if (session) await once(session.request({ ":path": path }), "response");
  else {
    await vi.waitFor(() => expect(sockets.length).toBe(1));
    if (sockets[0]) await held(sockets[0]);
  }
  let status = 0;
  const refused = on.ask("GET", path).then((answer) => {
    status = answer.status;
  });
  await vi.waitFor(
    async () => {
      await clock.advance(1000);
      expect(status).toBe(429);
    },
    { timeout: 20_000 },
  );
  await refused;
  const waiting = on.ask("GET", path);
  client.destroy();
  expect((await waiting).status).toBe(200);
});
