import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, statSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { Readable } from "node:stream";
import { cached, localRegistry, type Registry, remoteRegistry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeUpstream } from "oci-manifold/testing";
import { expect, onTestFinished, test, vi } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { emptyRegistry, overriding, recorder, type Site, site } from "./support.js";

const rounds = 100;

/** Files, sockets and pipes of this process. */
const openFiles = () => readdirSync("/proc/self/fd").length;

/** @param round does one thing that clients do before they vanish; none of it may stay. */
async function withoutGrowth(times: number, round: () => Promise<void>): Promise<void> {
  // What is opened once, such as a database or a pool, is open after these.
  for (let i = 0; i < 3; i++) await round();
  const before = existsSync("/proc/self/fd") ? openFiles() : undefined;
  for (let i = 0; i < times; i++) await round();
  if (before !== undefined) await vi.waitFor(() => expect(openFiles()).toBeLessThanOrEqual(before + 3), { timeout: 5000 });
}

/** A client that sends this and waits for what `until` says, then is gone. */
async function vanishing(port: number, text: string, until: (socket: Socket) => Promise<unknown>): Promise<void> {
  const socket = connect(port, "127.0.0.1");
  socket.write(text);
  socket.on("error", () => {});
  const closed = new Promise((resolve) => socket.once("close", resolve));
  await until(socket);
  socket.destroy();
  await closed;
}

const firstBytes = (socket: Socket) => new Promise((resolve) => socket.once("data", resolve));
const get = (digest: string) => `GET /v2/app/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`;

async function inFiles(): Promise<Site & { dir: string; events: ReturnType<typeof recorder> }> {
  const dir = temporaryFolder();
  const events = recorder();
  const registry = localRegistry({ storage: fileStorage(dir), name: "test" });
  const on = await site(registry, { anonymousWrites: true, events });
  onTestFinished(() => on.handler.close({ deadline: "0s" }));
  return { ...on, dir, events };
}

async function startedUpload(on: Site): Promise<{ location: string; id: string }> {
  const started = await on.fetch("/v2/app/blobs/uploads/", { method: "POST" });
  return { location: started.headers.get("location") ?? "", id: started.headers.get("docker-upload-uuid") ?? "" };
}

test("in the middle of a PATCH: what arrived is kept, and the next PATCH may begin at once", async () => {
  const on = await inFiles();
  const { location, id } = await startedUpload(on);
  const content = randomBytes((rounds + 3) * 100 + 50);
  let offset = 0;
  await withoutGrowth(rounds, async () => {
    const part = content.subarray(offset, offset + 100).toString("latin1");
    const head = `PATCH ${location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Range: ${offset}-${offset + 999}\r\n\r\n`;
    await vanishing(on.port, head, async (socket) => {
      // A refusal would arrive in place of the bytes.
      let refusal = "";
      socket.on("data", (chunk) => {
        refusal += chunk;
      });
      socket.write(part, "latin1");
      await vi.waitFor(() => expect([refusal, statSync(join(on.dir, "uploads", id)).size]).toEqual(["", offset + 100]), { interval: 2 });
    });
    offset += 100;
    // Far below the 15 seconds for which a silent writer is respected.
    await vi.waitFor(
      async () => {
        const status = await on.fetch(location);
        expect(status.headers.get("range")).toBe(`0-${offset - 1}`);
      },
      { interval: 2 },
    );
  });
  const headers = { "Content-Range": `${offset}-${content.byteLength - 1}`, "Content-Type": "application/octet-stream" };
  expect((await on.fetch(location, { method: "PATCH", headers, body: content.subarray(offset) })).status).toBe(202);
  expect((await on.fetch(`${location}?digest=${digestOf(content)}`, { method: "PUT" })).status).toBe(201);
  expect(readdirSync(join(on.dir, "uploads"))).toEqual([]);
  expect(on.events.of("fault")).toEqual([]);
});

test("in the middle of a GET, alone and with others behind it", async () => {
  const on = await inFiles();
  const bytes = Buffer.alloc(16 * 2 ** 20);
  const digest = digestOf(bytes);
  await on.registry.putBlob("app", { digest }, chunksOf(bytes));
  await withoutGrowth(rounds, () => vanishing(on.port, get(digest), firstBytes));
  await withoutGrowth(rounds, () => vanishing(on.port, get(digest).repeat(3), firstBytes));
  // Also those behind, which Node tells nothing.
  const all = (rounds + 3) * 4;
  await vi.waitFor(() => expect(on.events.of("request").length).toBe(all));
  expect(on.events.of("request").every(({ aborted }) => aborted)).toBe(true);
  expect(on.events.of("fault")).toEqual([]);
});

test("many behind one another are no leak to Node", async () => {
  const warned = vi.spyOn(process, "emitWarning");
  onTestFinished(() => warned.mockRestore());
  const sources: Readable[] = [];
  const on = await site(silent(sources));
  let seen = 0;
  on.server.on("request", () => seen++);
  await vanishing(on.port, get(digestOf(Buffer.alloc(0))).repeat(50), () =>
    vi.waitFor(() => expect([seen, sources.length]).toEqual([50, 1])),
  );
  await vi.waitFor(() => expect(sources.every(({ destroyed }) => destroyed)).toBe(true));
  await on.handler.close({ deadline: "1h" });
  expect(warned).not.toHaveBeenCalled();
});

/** A registry whose blobs never come. */
function silent(sources: Readable[]): Registry {
  const open = () => {
    const source = new Readable({ read() {} });
    sources.push(source);
    return source;
  };
  const descriptor = { mediaType: "application/octet-stream", digest: digestOf(Buffer.alloc(0)), size: 10 };
  return overriding(emptyRegistry(), {
    getBlob: async () => ({ kind: "found", value: { descriptor, content: { kind: "stream", open } }, served: { member: ["test"] } }),
  });
}

test("before the first byte", async () => {
  const sources: Readable[] = [];
  const on = await site(silent(sources));
  await withoutGrowth(rounds, () => {
    const { length } = sources;
    return vanishing(on.port, get(digestOf(Buffer.alloc(0))), () =>
      vi.waitFor(() => expect(sources.length).toBe(length + 1), { interval: 2 }),
    );
  });
  await vi.waitFor(() => expect(sources.every(({ destroyed }) => destroyed)).toBe(true));
});

test("during a commit: it is done, and the same PUT again has its answer", async () => {
  const dir = temporaryFolder();
  const base = localRegistry({ storage: fileStorage(dir), name: "test" });
  let commits = 0;
  let go = () => {};
  const registry = overriding(base, {
    async resumeUpload(...args) {
      const session = await base.resumeUpload(...args);
      const commit = session.commit.bind(session);
      session.commit = async (digest) => {
        commits++;
        await new Promise<void>((resolve) => {
          go = resolve;
        });
        return commit(digest);
      };
      return session;
    },
  });
  const on = await site(registry);
  onTestFinished(() => on.handler.close({ deadline: "0s" }));
  await withoutGrowth(20, async () => {
    const { location } = await startedUpload(on);
    const content = randomBytes(50);
    const put = `${location}?digest=${digestOf(content)}`;
    const before = commits;
    await vanishing(on.port, `PUT ${put} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n`, async (socket) => {
      socket.write(content);
      await vi.waitFor(() => expect(commits).toBe(before + 1), { interval: 2 });
    });
    go();
    await vi.waitFor(async () => expect((await base.resolveBlob("app", digestOf(content))).kind).toBe("found"), { interval: 2 });
    expect((await on.fetch(put, { method: "PUT", body: content })).status).toBe(201);
    expect(commits).toBe(before + 1);
  });
  expect(readdirSync(join(dir, "uploads"))).toEqual([]);
});

test("a kept connection gathers nothing", async () => {
  const on = await inFiles();
  const counts: number[][] = [];
  on.server.on("request", ({ socket }) => counts.push(socket.eventNames().map((name) => socket.listenerCount(name))));
  const refused = "PUT /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
  const text = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";
  const socket = connect(on.port, "127.0.0.1");
  for (let i = 0; i < rounds; i++) {
    socket.write(i % 2 ? refused : text);
    await firstBytes(socket);
  }
  socket.destroy();
  const sums = counts.map((row) => row.reduce((sum, count) => sum + count, 0));
  expect(sums.length).toBe(rounds);
  expect(Math.max(...sums.slice(50))).toBeLessThanOrEqual(Math.max(...sums.slice(0, 10)));
});

/** Passes connections on to a port, and knows which are open. */
async function relay(port: number): Promise<{ url: string; open: Set<Socket> }> {
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    const onwards = connect(port, "127.0.0.1");
    socket.on("close", () => {
      open.delete(socket);
      onwards.destroy();
    });
    onwards.on("close", () => socket.destroy());
    for (const end of [socket, onwards]) end.on("error", () => {});
    socket.pipe(onwards).pipe(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, open };
}

test("without a cache the upstream's connection ends with the client's", async () => {
  await using upstream = await fakeUpstream({
    intercept: ({ method, url }) => (method === "GET" && url.includes("/blobs/") ? { slowBytesPerSecond: 1_000_000 } : undefined),
  });
  const { digest } = upstream.addBlob("app", randomBytes(4_000_000));
  const between = await relay(Number(new URL(upstream.url).port));
  const on = await site(remoteRegistry(between.url));
  onTestFinished(() => on.handler.close({ deadline: "0s" }));
  await withoutGrowth(20, async () => {
    await vanishing(on.port, get(digest), async (socket) => {
      await firstBytes(socket);
      expect(between.open.size).toBeGreaterThan(0);
    });
    await vi.waitFor(() => expect(between.open.size).toBe(0), { timeout: 5000, interval: 2 });
  });
});

test("a cache goes on with its fill, once for all who left", async () => {
  await using upstream = await fakeUpstream({
    intercept: ({ method, url }) => (method === "GET" && url.includes("/blobs/") ? { slowBytesPerSecond: 2_000_000 } : undefined),
  });
  const bytes = randomBytes(1_000_000);
  const { digest } = upstream.addBlob("app", bytes);
  const hub = cached(remoteRegistry(upstream.url), { storage: memoryStorage(), name: "hub" });
  const on = await site(hub);
  onTestFinished(() => on.handler.close({ deadline: "0s" }));
  for (let i = 0; i < 10; i++) await vanishing(on.port, get(digest), i === 0 ? firstBytes : async () => {});
  const got = await on.fetch(`/v2/app/blobs/${digest}`);
  expect(Buffer.from(await got.arrayBuffer()).equals(bytes)).toBe(true);
  expect(upstream.requests.filter(({ method, url }) => method === "GET" && url.includes("/blobs/")).length).toBe(1);
});

test("a server's own end is its clients' too", async () => {
  const sources: Readable[] = [];
  const on = await site(silent(sources));
  const gone = vanishing(on.port, get(digestOf(Buffer.alloc(0))), () => vi.waitFor(() => expect(sources[0]?.destroyed).toBe(true)));
  await vi.waitFor(() => expect(sources.length).toBe(1));
  on.server.closeAllConnections();
  await gone;
});
