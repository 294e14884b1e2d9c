/**
 * Four registries as one: what teams push, what was released, a few images of Docker Hub, and those of a private registry.
 *
 *   release      what is pushed here is visible in prerelease too
 *   prerelease   push and pull; shows through connectors
 *                  release   everything, under its own names
 *                  hub       node from version 22 on, and alpine, of Docker Hub or of the registry that UPSTREAM names
 *                  vendor    team/app of the registry that PRIVATE_UPSTREAM names, as vendor/app
 *
 * What is pulled from the last two is kept here with all its layers.
 */
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { pathToFileURL } from "node:url";
import { type AggregateRegistry, aggregate, type Connector, cached, dockerHub, localRegistry, remoteRegistry, routes } from "oci-manifold";
import { chained, prefixed, stripped } from "oci-manifold/names";
import { nodeHandler, tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";

interface Started {
  readonly server: Server;
  /** For `audit`, `impactOfRemoving`, `pin` and `setConnectors`. */
  readonly prerelease: AggregateRegistry;
  close(): Promise<void>;
}

export async function start(port: number, dir = "./data"): Promise<Started> {
  const { UPSTREAM, PRIVATE_UPSTREAM, PRIVATE_USER = "", PRIVATE_PASSWORD = "" } = process.env;
  const storage = fileStorage(dir);
  const release = localRegistry({ storage, name: "release" });
  const hub = cached(UPSTREAM ? remoteRegistry(UPSTREAM) : dockerHub(), { storage, name: "hub" });
  const connectors: Connector[] = [
    { name: "release", source: release },
    { name: "hub", source: hub, allow: ["library/alpine", "library/node:{>=22}*"] },
  ];
  if (PRIVATE_UPSTREAM) {
    const vendor = remoteRegistry(PRIVATE_UPSTREAM, { credentials: { username: PRIVATE_USER, password: PRIVATE_PASSWORD } });
    connectors.push({
      name: "vendor",
      source: cached(vendor, { storage, name: "vendor" }),
      // Filters speak of the upstream's names, clients of ours.
      allow: ["team/app"],
      rename: chained(prefixed("vendor/"), stripped("team/")),
    });
  }
  const prerelease = aggregate({ local: localRegistry({ storage, name: "prerelease" }), connectors });

  // The upstreams have no route of their own, which would lead around the filters. Anybody who reaches this port may push, and pull what the private
  // registry gives: it listens on 127.0.0.1 only.
  const images = nodeHandler(routes({ release, prerelease }), { anonymousWrites: true });
  await images.ready();
  const server = tuneServer(createServer(images)).listen(port, "127.0.0.1");
  await once(server, "listening");
  return {
    server,
    prerelease,
    async close() {
      server.close();
      await images.close({ deadline: "10s" });
      server.closeAllConnections();
    },
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { close } = await start(Number(process.env.PORT ?? 5000));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, close);
}
