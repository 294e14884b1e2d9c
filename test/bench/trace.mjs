// Prints the files and functions of this project that one request runs, by module, as V8's coverage sees them:
//
//   npm run trace -- warm    GET of a manifest through an aggregate that has answered it before
//   npm run trace -- cold    GET of a manifest through aggregate, filter, cache and remote, asked for the first time
//   npm run trace -- push    POST and PUT of a blob
//
// The number of files a reader has to open to follow a request is a figure like any other. `core` and `storage` are counted apart: they hold the words and the
// back ends, which a reader need not open. With --functions every function is named.
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { Session } from "node:inspector/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { aggregate, cached, localRegistry, remoteRegistry, routes } from "oci-manifold";
import { nodeHandler, tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { functions: { type: "boolean" }, json: { type: "boolean" } },
});
const dist = join(fileURLToPath(import.meta.url), "../../../dist/");

/** A registry behind a socket. */
async function served(registry) {
  const handler = nodeHandler(registry, { anonymousWrites: true });
  await handler.ready();
  const server = tuneServer(createServer(handler));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = async () => {
    server.closeAllConnections();
    server.close();
    await handler.close({ deadline: "1s" });
  };
  return { url: `http://127.0.0.1:${server.address().port}`, close };
}

async function ask(url, init) {
  const response = await fetch(url, init);
  const body = await response.arrayBuffer();
  if (!response.ok) throw new Error(`${init?.method ?? "GET"} ${url} was answered ${response.status}: ${Buffer.from(body)}`);
  return response;
}

const digestOf = (bytes) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

async function pushBlob(url, repository, bytes) {
  const { headers } = await ask(`${url}/v2/${repository}/blobs/uploads/`, { method: "POST" });
  await ask(`${new URL(headers.get("location"), url)}?digest=${digestOf(bytes)}`, {
    method: "PUT",
    body: bytes,
    headers: { "content-type": "application/octet-stream" },
  });
}

async function pushImage(url, repository, tag) {
  const config = Buffer.from(JSON.stringify({ architecture: "amd64", os: "linux", id: randomBytes(4).toString("hex") }));
  const layer = randomBytes(10_000);
  for (const bytes of [config, layer]) await pushBlob(url, repository, bytes);
  const descriptor = (bytes, mediaType) => ({ mediaType, digest: digestOf(bytes), size: bytes.byteLength });
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const manifest = {
    schemaVersion: 2,
    mediaType,
    config: descriptor(config, "application/vnd.oci.image.config.v1+json"),
    layers: [descriptor(layer, "application/vnd.oci.image.layer.v1.tar")],
  };
  await ask(`${url}/v2/${repository}/manifests/${tag}`, {
    method: "PUT",
    body: JSON.stringify(manifest),
    headers: { "content-type": mediaType },
  });
}

/** Counts from here on; what is imported and made ready is not part of a request. */
async function traced(run) {
  const session = new Session();
  session.connect();
  await session.post("Profiler.enable");
  await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: false });
  await session.post("Profiler.takePreciseCoverage");
  await run();
  const { result } = await session.post("Profiler.takePreciseCoverage");
  session.disconnect();
  return result
    .filter(({ url }) => url.startsWith("file:") && fileURLToPath(url).startsWith(dist))
    .map(({ url, functions }) => ({
      file: fileURLToPath(url).slice(dist.length).replace(/\.js$/, ".ts"),
      // The function without a name that spans the whole file is the module itself.
      functions: functions
        .filter(({ functionName, ranges: [range] }) => range.count > 0 && (functionName !== "" || range.startOffset > 0))
        .map(({ functionName }) => functionName || "(anonymous)"),
    }))
    .filter(({ functions }) => functions.length > 0)
    .sort((a, b) => (a.file < b.file ? -1 : 1));
}

const folder = mkdtempSync(join(tmpdir(), "manifold-trace-"));
const storage = fileStorage(join(folder, "data"));
const upstream = await served(localRegistry({ storage: fileStorage(join(folder, "upstream")), name: "upstream" }));
const hub = cached(remoteRegistry(upstream.url), { storage, name: "hub" });
const prerelease = aggregate({
  local: localRegistry({ storage, name: "prerelease" }),
  connectors: [{ name: "hub", source: hub, allow: ["library/*"] }],
});
const site = await served(routes({ prerelease, hub }));

const requests = {
  async warm() {
    await pushImage(site.url, "prerelease/team/app", "1");
    const url = `${site.url}/v2/prerelease/team/app/manifests/1`;
    for (let i = 0; i < 3; i++) await ask(url);
    return () => ask(url);
  },
  async cold() {
    await pushImage(upstream.url, "library/app", "1");
    await pushImage(upstream.url, "library/other", "1");
    // Another repository first: what a connection, a token or a first call needs once is not part of it.
    await ask(`${site.url}/v2/prerelease/library/other/manifests/1`);
    return () => ask(`${site.url}/v2/prerelease/library/app/manifests/1`);
  },
  async push() {
    await pushBlob(site.url, "prerelease/team/app", randomBytes(5000));
    return () => pushBlob(site.url, "prerelease/team/app", randomBytes(5000));
  },
};

const prepare = requests[positionals[0]];
if (!prepare) {
  console.error(`which request? ${Object.keys(requests).join(", ")}`);
  process.exitCode = 2;
} else {
  const files = await traced(await prepare());
  report(files);
}
await site.close();
await upstream.close();
rmSync(folder, { recursive: true, force: true });

function report(files) {
  if (values.json) return console.log(JSON.stringify(files));
  const rooms = byRoom(files);
  const count = (list) => `${list.length} files, ${list.reduce((sum, { functions }) => sum + functions.length, 0)} functions`;
  for (const [room, list] of rooms) {
    console.log(`${room}: ${count(list)}`);
    for (const { file, functions } of list)
      console.log(`  ${file} (${functions.length})${values.functions ? `: ${functions.join(", ")}` : ""}`);
  }
  console.log(`\n${positionals[0]}: ${count(files)}`);
  console.log(`outside core and storage: ${count(files.filter(({ file }) => !/^(core|storage)\//.test(file)))}`);
}

/** Node 20 has no Map.groupBy. */
function byRoom(files) {
  const rooms = new Map();
  for (const one of files) {
    const room = one.file.split("/")[0];
    rooms.set(room, [...(rooms.get(room) ?? []), one]);
  }
  return rooms;
}
