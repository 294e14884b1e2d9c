/** What clients do to a registry, at random, over HTTP/1.1 and HTTP/2: most of it as it should be done, and much of it broken off. */
import { createHash, randomBytes, randomInt } from "node:crypto";
import { Agent, request as http1Request } from "node:http";
import { connect } from "node:http2";
import { upstreamRepositories, upstreamTags } from "./upstream.mjs";

const repositories = 8;
const tags = 25;
const workers = 12;
const ociManifest = "application/vnd.oci.image.manifest.v1+json";
const layerType = "application/vnd.oci.image.layer.v1.tar";
const digestOf = (bytes) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
/** The same ones all the time, so that a long run does not fill the disk. */
const largeLayers = Array.from({ length: 6 }, (_, at) => Buffer.alloc(4_000_000, digestOf(String(at))));
const pick = (list) => list[randomInt(list.length)];

/** One run of load. `counts` says how often each thing was done, and what it was answered. */
export async function load([http1Port, http2Port], milliseconds, counts) {
  const agent = new Agent({ keepAlive: true, maxSockets: 24 });
  let session;
  const http2Session = () => {
    if (session === undefined || session.closed || session.destroyed) {
      session = connect(`http://127.0.0.1:${http2Port}`);
      session.on("error", () => {});
      session.on("goaway", () => session.close());
    }
    return session;
  };
  const until = Date.now() + milliseconds;
  const client = (worker) => (worker % 2 === 0 ? overHttp1(http1Port, agent) : overHttp2(http2Session()));
  const work = async (worker) => {
    while (Date.now() < until) {
      const [name, action] = weighted();
      const status = await action(client(worker)).catch((error) => error.code ?? error.name);
      const key = `${name} ${status}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: workers }, (_, worker) => work(worker)));
  agent.destroy();
  if (session && !session.destroyed) await new Promise((resolve) => session.once("close", resolve).close());
}

const actions = [
  [6, "push", pushImage],
  [8, "pull of what was pushed", pullPushed],
  [10, "pull through the cache", pullCached],
  [3, "listing", list],
  [3, "delete", remove],
  [2, "upload left open", leaveOpen],
  [2, "upload broken off", breakOff],
  [3, "download broken off", abortDownload],
  [1, "connection of its own", (client) => client.alone(`/v2/release/app${randomInt(repositories)}/tags/list`)],
];
const total = actions.reduce((sum, [weight]) => sum + weight, 0);

function weighted() {
  let at = randomInt(total);
  for (const [weight, name, action] of actions) {
    at -= weight;
    if (at < 0) return [name, action];
  }
}

const repositoryHere = () => `/v2/${pick(["release", "prerelease"])}/app${randomInt(repositories)}`;

async function start(client, repository) {
  const { status, headers } = await client.ask("POST", `${repository}/blobs/uploads/`);
  return status === 202 ? headers.location : undefined;
}

async function pushBlob(client, repository, bytes) {
  const location = await start(client, repository);
  if (location === undefined) return 0;
  const end = `${location}${location.includes("?") ? "&" : "?"}digest=${digestOf(bytes)}`;
  if (randomInt(2) === 0) return (await client.ask("PUT", end, { body: bytes })).status;
  await client.ask("PATCH", location, { body: bytes });
  return (await client.ask("PUT", end)).status;
}

async function pushImage(client) {
  const repository = repositoryHere();
  const layers = [randomBytes(200 + randomInt(2000)), randomBytes(8000)];
  if (randomInt(40) === 0) layers.push(pick(largeLayers));
  const config = Buffer.from(JSON.stringify({ os: "linux", architecture: "amd64", created: randomBytes(8).toString("hex") }));
  for (const blob of [config, ...layers]) await pushBlob(client, repository, blob);
  const describe = (bytes, mediaType) => ({ mediaType, digest: digestOf(bytes), size: bytes.length });
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: ociManifest,
    config: describe(config, "application/vnd.oci.image.config.v1+json"),
    layers: layers.map((layer) => describe(layer, layerType)),
  });
  const pushed = await client.ask("PUT", `${repository}/manifests/v${randomInt(tags)}`, {
    body: manifest,
    headers: { "content-type": ociManifest },
  });
  return pushed.status;
}

async function pull(client, repository, reference) {
  const { status, body, headers } = await client.ask("GET", `${repository}/manifests/${reference}`, { headers: { accept: ociManifest } });
  if (status !== 200) return status;
  const { config, layers } = JSON.parse(body.toString());
  const answers = await Promise.all([config, ...layers].map(({ digest }) => client.ask("GET", `${repository}/blobs/${digest}`)));
  const again = await client.ask("HEAD", `${repository}/manifests/${headers["docker-content-digest"] ?? reference}`);
  return [...answers, again].find((answer) => answer.status !== 200)?.status ?? 200;
}

function pullPushed(client) {
  return pull(client, repositoryHere(), `v${randomInt(tags)}`);
}

function pullCached(client) {
  return pull(client, `/v2/${pick(["hub", "prerelease"])}/team/app${randomInt(upstreamRepositories)}`, `v${randomInt(upstreamTags)}`);
}

async function list(client) {
  const paths = [
    `${repositoryHere()}/tags/list?n=10`,
    `/v2/prerelease/team/app${randomInt(upstreamRepositories)}/tags/list`,
    `/v2/hub/team/app${randomInt(upstreamRepositories)}/tags/list?n=7`,
    "/v2/_catalog?n=20",
    `${repositoryHere()}/referrers/${digestOf(String(randomInt(20)))}`,
    `/v2/hub/team/unknown${randomInt(50)}/tags/list`,
  ];
  return (await client.ask("GET", pick(paths))).status;
}

async function remove(client) {
  const repository = repositoryHere();
  const tag = `v${randomInt(tags)}`;
  if (randomInt(2) === 0) return (await client.ask("DELETE", `${repository}/manifests/${tag}`)).status;
  const { status, headers } = await client.ask("HEAD", `${repository}/manifests/${tag}`);
  const digest = headers["docker-content-digest"];
  return status === 200 && digest ? (await client.ask("DELETE", `${repository}/manifests/${digest}`)).status : status;
}

async function leaveOpen(client) {
  const location = await start(client, repositoryHere());
  return location === undefined ? 0 : (await client.ask("PATCH", location, { body: randomBytes(randomInt(20_000)) })).status;
}

async function breakOff(client) {
  const location = await start(client, repositoryHere());
  return location === undefined ? 0 : client.abortUpload(location, randomBytes(randomInt(100_000)));
}

async function abortDownload(client) {
  const large = pick(largeLayers);
  const hub = `/v2/hub/team/app${randomInt(upstreamRepositories)}`;
  if (randomInt(2) === 0)
    return client.abortDownload(`/v2/release/app${randomInt(repositories)}/blobs/${digestOf(large)}`, randomInt(300_000));
  const { status, body } = await client.ask("GET", `${hub}/manifests/v${randomInt(3) * 10}`, { headers: { accept: ociManifest } });
  return status === 200 ? client.abortDownload(`${hub}/blobs/${JSON.parse(body.toString()).layers[2].digest}`, randomInt(100_000)) : status;
}

function overHttp1(port, agent) {
  const send = (method, path, { headers = {}, body, own = false } = {}, answered) =>
    new Promise((resolve, reject) => {
      const length = body === undefined ? {} : { "content-length": Buffer.byteLength(body) };
      const request = http1Request(
        { host: "127.0.0.1", port, method, path, headers: { ...length, ...headers }, agent: own ? false : agent },
        (response) => {
          answered(response, request, resolve, reject);
        },
      );
      request.on("error", reject);
      request.end(body);
    });
  const whole = (response, _, resolve, reject) => {
    const chunks = [];
    response.on("data", (chunk) => chunks.push(chunk));
    response.on("end", () => resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) }));
    response.on("error", reject);
  };
  return {
    ask: (method, path, o) => send(method, path, o, whole),
    alone: async (path) => (await send("GET", path, { own: true }, whole)).status,
    abortDownload: (path, bytes) =>
      send("GET", path, { own: true }, (response, request, resolve) => {
        let got = 0;
        response.on("data", (chunk) => {
          got += chunk.length;
          if (got >= bytes) request.destroy();
        });
        response.on("error", () => {});
        response.on("close", () => resolve(response.statusCode));
      }),
    abortUpload: (path, bytes) =>
      new Promise((resolve) => {
        const headers = { "content-length": bytes.length + 1000 };
        const request = http1Request({ host: "127.0.0.1", port, method: "PATCH", path, headers, agent: false }, (response) =>
          response.resume(),
        );
        request.on("error", () => {});
        request.on("close", () => resolve("aborted"));
        request.write(bytes, () => setTimeout(() => request.destroy(), randomInt(20)));
      }),
  };
}

function overHttp2(session) {
  const open = (method, path, headers, endStream) => session.request({ ...headers, ":method": method, ":path": path }, { endStream });
  const ask = (method, path, { headers = {}, body } = {}) =>
    new Promise((resolve, reject) => {
      const stream = open(method, path, headers, body === undefined);
      let answered = {};
      const chunks = [];
      stream.on("response", (received) => {
        answered = received;
      });
      stream.on("data", (chunk) => chunks.push(chunk));
      stream.on("error", reject);
      stream.on("close", () => resolve({ status: answered[":status"], headers: answered, body: Buffer.concat(chunks) }));
      if (body !== undefined) stream.end(body);
    });
  return {
    ask,
    alone: async (path) => (await ask("GET", path)).status,
    abortDownload: (path, bytes) =>
      new Promise((resolve) => {
        const stream = open("GET", path, {}, true);
        let got = 0;
        let status;
        stream.on("response", (headers) => {
          status = headers[":status"];
        });
        stream.on("data", (chunk) => {
          got += chunk.length;
          if (got >= bytes) stream.close(8);
        });
        stream.on("error", () => {});
        stream.on("close", () => resolve(status));
      }),
    abortUpload: (path, bytes) =>
      new Promise((resolve) => {
        const stream = open("PATCH", path, { "content-length": bytes.length + 1000 }, false);
        stream.on("error", () => {});
        stream.on("close", () => resolve("aborted"));
        stream.resume();
        stream.write(bytes, () => setTimeout(() => stream.close(8), randomInt(20)));
      }),
  };
}
