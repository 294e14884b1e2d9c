/**
 * The server that `npm run soak` watches, in a process of its own: `release` and `prerelease` store in one folder; `prerelease` shows `release` and, through a cache,
 * an upstream; `hub` is that cache by itself. HTTP/1.1 and HTTP/2, each on a port. Tells by IPC what it holds.
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdir, readlink } from "node:fs/promises";
import { createServer } from "node:http";
import { createServer as createHttp2Server } from "node:http2";
import { setImmediate as turn } from "node:timers/promises";
import { aggregate, cached, localRegistry, remoteRegistry, routes } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { collectGarbage } from "oci-manifold/maintenance";
import { nodeHandler, tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";

const { DATA, UPSTREAM } = process.env;

const storage = fileStorage(DATA);
const common = { storage, uploadTimeToLive: "30s" };
const release = localRegistry({ ...common, name: "release" });
// It opens soon and for a short time: the upstream is down every few seconds, and is to be asked in between.
const upstream = remoteRegistry(UPSTREAM, { name: "upstream", breaker: { failures: 3, openFor: "1s" } });
const hub = cached(upstream, { storage, name: "hub", tagTtl: "2s", maxBytes: "16MiB" });
const prerelease = aggregate({
  local: localRegistry({ ...common, name: "prerelease" }),
  connectors: [
    { name: "release", source: release },
    { name: "hub", source: hub, onFailure: "next" },
  ],
});
const handler = nodeHandler(routes({ release, prerelease, hub }), { anonymousWrites: true });
await handler.ready();
const servers = [tuneServer(createServer(handler)), tuneServer(createHttp2Server(handler))];
for (const server of servers) await once(server.listen(0, "127.0.0.1"), "listening");

await fillCaches();

const collecting = setInterval(() => collectGarbage(storage).catch((error) => console.error("a collection failed:", error)), 20_000);

process.on("message", async (message) => {
  if (message === "sample") process.send({ sample: await sample() });
  if (message === "end") {
    clearInterval(collecting);
    for (const server of servers) server.close();
    await handler.close({ deadline: "5s" });
    process.disconnect();
  }
});
process.send({ ports: servers.map((server) => server.address().port) });

/**
 * What is kept in memory has bounds, and grows until it reaches them, which takes clients hours: 32 MiB of records, 16 MiB of the database's pages, and of each local registry
 * 8 MiB of small blobs. So they are filled to their bounds before anything is measured: with three times the records that fit, since what has many entries put in and taken out
 * grows once more.
 */
async function fillCaches() {
  const { metadata } = storage;
  const digest = `sha256:${"0".repeat(64)}`;
  const keys = Array.from({ length: 150_000 }, (_, at) => ({ kind: "tag", parts: ["soak", "filling", `v${at}`] }));
  for (let at = 0; at < keys.length; at += 10_000) {
    await metadata.commit(
      [],
      keys.slice(at, at + 10_000).map((put) => ({ put, value: { digest, updatedAt: Date.now() + at } })),
    );
  }
  for (const key of keys) await metadata.get(key);
  for (const registry of [release, prerelease.local]) {
    const blobs = Array.from({ length: 600 }, () => randomBytes(16_000));
    await Promise.all(
      blobs.map(async (bytes) => {
        const descriptor = { digest: digestOf(bytes), size: bytes.length };
        await registry.putBlob("filling", descriptor, chunksOf(bytes));
        await registry.getBlob("filling", descriptor.digest);
      }),
    );
  }
}

async function sample() {
  // What finalizers release is free only after they have run.
  for (let i = 0; i < 3; i++) {
    globalThis.gc();
    await turn();
  }
  return {
    memory: process.memoryUsage(),
    handles: counted(process.getActiveResourcesInfo()),
    files: counted(await openFiles()),
  };
}

/** What each descriptor leads to, without the numbers in it. Linux only. */
async function openFiles() {
  const names = await readdir("/proc/self/fd");
  const targets = await Promise.all(names.map((name) => readlink(`/proc/self/fd/${name}`).catch(() => undefined)));
  // That of the folder itself is gone by now.
  return targets.filter((target) => target !== undefined).map((target) => (target.startsWith(DATA) ? "file" : target.replace(/:.*/, "")));
}

function counted(names) {
  const counts = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}
