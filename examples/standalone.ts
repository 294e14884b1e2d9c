/**
 * The main job, `npm start`: three registries on one port, with everything in files.
 *
 *   release      what is pushed here is visible in prerelease too
 *   prerelease   push and pull; shows release through a connector; may refer to layers of hub
 *   hub          a cache of Docker Hub, or of the registry that UPSTREAM names
 */
import { createServer } from "node:http";
import { aggregate, cached, dockerHub, type EventSink, localRegistry, remoteRegistry, routes } from "oci-manifold";
import { nodeHandler, tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";

const { PORT = "5000", HOST = "127.0.0.1", DATA = "./data", UPSTREAM, SPARSE } = process.env;

// Lines of one turn of the event loop are written together: under load a write for each costs a tenth of the whole.
let lines: string[] = [];
const log = (line: string) => {
  if (lines.push(`${line}\n`) > 1) return;
  setImmediate(() => {
    process.stdout.write(lines.join(""));
    lines = [];
  });
};
const events: EventSink = {
  emit(type, event) {
    if (type !== "request" || !("method" in event)) return;
    const { time, method, url, status, member = ["-"], cache = "-", bytes, duration, aborted } = event;
    const line = [new Date(time).toISOString(), method, url, status, member.join(">"), cache, `${bytes}B`, `${duration.toFixed(1)}ms`];
    log(line.join(" ") + (aborted ? " aborted" : ""));
  },
};
const storage = fileStorage(DATA);
const upstream = UPSTREAM ? remoteRegistry(UPSTREAM) : dockerHub();
const hub = cached(upstream, { storage, name: "hub", events });
// SPARSE=1: manifests may refer to content that is not here, as in mirrors of some platforms only.
const sparse = SPARSE === "1";
const release = localRegistry({ storage, name: "release", sparse, events });
const prerelease = aggregate({
  local: localRegistry({ storage, name: "prerelease", sparse, events }),
  connectors: [
    { name: "release", source: release },
    { name: "hub", source: hub, reach: "links" },
  ],
  events,
});
const all = routes({ release, prerelease, hub }, { fallback: hub, namespaces: { "docker.io": hub } });
const images = nodeHandler(all, { anonymousWrites: true, events });
await images.ready();

// A slow push of a large layer may take longer than Node's limit of five minutes; clients that stop are broken off by the handler.
const server = tuneServer(createServer(images));
server.listen(Number(PORT), HOST, () => {
  const at = `${HOST}:${PORT}`;
  console.log(`Manifold serves http://${at} from ${DATA}
  push   docker tag alpine ${at}/release/alpine && docker push ${at}/release/alpine
  pull   docker pull ${at}/prerelease/alpine     (what is in release is visible in prerelease)
  cache  docker pull ${at}/hub/library/alpine    (${UPSTREAM ?? "Docker Hub"}, kept here with all layers)`);
});

let stopping = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, async () => {
    if (stopping) process.exit(1);
    stopping = true;
    server.close();
    await images.close({ deadline: "30s" });
    server.closeAllConnections();
  });
}
