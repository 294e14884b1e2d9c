/**
 * `npm run bench`: what requests cost, beside a bare node:http server in the same run, since machines are shared and noisy. Quote the ratios.
 * Needs wrk (Debian: `apt-get install wrk`) and a build.
 */
import { execFile, spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

const run = promisify(execFile);
const seconds = 5;

if (process.argv[2] === "bare") {
  const body = randomBytes(700);
  const server = createServer((_, response) => response.writeHead(200, { "Content-Length": body.length }).end(body));
  server.listen(Number(process.env.PORT), "127.0.0.1", () => console.log("ready"));
} else {
  await main();
}

async function main() {
  const data = await mkdtemp(join(tmpdir(), "manifold-bench-"));
  const bare = await start([import.meta.filename, "bare"], { PORT: "5098" });
  const upstream = await startUpstream();
  const registry = await start(["examples/dist/standalone.js"], { PORT: "5099", DATA: data, UPSTREAM: upstream.url });
  try {
    await bench();
    await benchColdCache(upstream);
    const status = await readFile(`/proc/${registry.pid}/status`, "utf8").catch(() => "");
    console.log("memory, highest:", /VmHWM:\s+(.*)/.exec(status)?.[1] ?? "unknown here");
  } finally {
    bare.kill();
    upstream.server.close();
    registry.kill();
    await once(registry, "exit");
    await rm(data, { recursive: true });
  }
}

async function bench() {
  const at = "http://127.0.0.1:5099/v2";
  const small = await push(`${at}/release/app`, randomBytes(4096));
  const manifest = await pushManifest(`${at}/release/app`, small);
  for (let tag = 0; tag < 50; tag++) await pushManifest(`${at}/release/app`, small, `v${tag}`);
  const limit = await rate("http://127.0.0.1:5098/");
  console.log(`bare node:http        ${limit.toFixed(0)} requests/s`);
  const paths = {
    "manifest by tag": "release/app/manifests/v1",
    "manifest by digest": `release/app/manifests/${manifest}`,
    "through a connector": "prerelease/app/manifests/v1",
    "4 KiB blob": `release/app/blobs/${small}`,
    "list of 50 tags": "release/app/tags/list",
  };
  for (const [what, path] of Object.entries(paths)) {
    const got = await rate(`${at}/${path}`);
    console.log(`${what.padEnd(21)} ${got.toFixed(0)} requests/s, ${(got / limit).toFixed(2)} of bare node:http`);
  }
  const layer = randomBytes(100_000_000);
  let begun = performance.now();
  const digest = await push(`${at}/release/app`, layer);
  console.log(`push of 100 MB        ${(100_000 / (performance.now() - begun)).toFixed(0)} MB/s`);
  begun = performance.now();
  await run("curl", ["-sf", "-o", "/dev/null", `${at}/release/app/blobs/${digest}`]);
  console.log(`pull of 100 MB        ${(100_000 / (performance.now() - begun)).toFixed(0)} MB/s`);
}

async function benchColdCache(upstream) {
  const times = { theirs: [], ours: [] };
  for (let turn = 0; turn < 21; turn++) {
    const digest = upstream.add(randomBytes(1_000_000));
    times.theirs.push(await firstByte(`${upstream.url}/v2/app/blobs/${digest}`));
    times.ours.push(await firstByte(`http://127.0.0.1:5099/v2/hub/app/blobs/${digest}`));
  }
  const [theirs, ours] = [median(times.theirs), median(times.ours)];
  console.log(
    `first byte, cold      ${ours.toFixed(1)} ms through the cache, ${(ours - theirs).toFixed(1)} ms after the upstream's (target: 10)`,
  );
  const layer = randomBytes(20_000_000);
  const url = `http://127.0.0.1:5099/v2/hub/app/blobs/${upstream.add(layer)}`;
  const before = upstream.sent();
  await Promise.all(Array.from({ length: 20 }, () => run("curl", ["-sf", "-o", "/dev/null", url])));
  console.log(`stampede of 20        ${((upstream.sent() - before) / layer.length).toFixed(2)} times the layer from the upstream`);
}

/** Blobs in memory, each answered after 20 ms as from another continent. */
async function startUpstream() {
  const blobs = new Map();
  let sent = 0;
  const server = createServer(async (request, response) => {
    const bytes = blobs.get(request.url.split("/").at(-1));
    await sleep(20);
    if (!bytes) return response.writeHead(404).end();
    sent += bytes.length;
    response.writeHead(200, { "Content-Length": bytes.length }).end(bytes);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const add = (bytes) => {
    const digest = digestOf(bytes);
    blobs.set(digest, bytes);
    return digest;
  };
  return { server, url: `http://127.0.0.1:${server.address().port}`, add, sent: () => sent };
}

/** In milliseconds; the rest is read too. */
async function firstByte(url) {
  const begun = performance.now();
  const reader = (await fetch(url)).body.getReader();
  await reader.read();
  const time = performance.now() - begun;
  while (!(await reader.read()).done);
  return time;
}

function median(times) {
  return times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
}

async function rate(url) {
  const { stdout } = await run("wrk", ["-t1", "-c16", `-d${seconds}s`, url]);
  if (/Non-2xx/.test(stdout)) throw new Error(`${url}: ${stdout}`);
  return Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]);
}

async function push(repository, bytes) {
  const digest = digestOf(bytes);
  const begun = await fetch(`${repository}/blobs/uploads/`, { method: "POST" });
  const upload = new URL(begun.headers.get("location") ?? "", repository);
  await fetch(upload, { method: "PATCH", body: bytes });
  upload.searchParams.set("digest", digest);
  const done = await fetch(upload, { method: "PUT" });
  if (done.status !== 201) throw new Error(`push: ${done.status} ${await done.text()}`);
  return digest;
}

async function pushManifest(repository, blob, tag = "latest") {
  const descriptor = { mediaType: "application/vnd.oci.image.config.v1+json", digest: blob, size: 4096 };
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const body = JSON.stringify({ schemaVersion: 2, mediaType, config: descriptor, layers: [descriptor] });
  const done = await fetch(`${repository}/manifests/${tag}`, { method: "PUT", headers: { "Content-Type": mediaType }, body });
  if (done.status !== 201) throw new Error(`manifest: ${done.status} ${await done.text()}`);
  return digestOf(body);
}

function digestOf(bytes) {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

async function start(args, env) {
  const child = spawn(process.execPath, args, { env: { ...process.env, ...env }, stdio: ["ignore", "ignore", "inherit"] });
  for (let tries = 0; tries < 100; tries++) {
    await sleep(50);
    if (
      await fetch(`http://127.0.0.1:${env.PORT}/v2/`).then(
        (response) => response.ok,
        () => false,
      )
    )
      return child;
  }
  throw new Error(`${args.join(" ")} did not start`);
}
