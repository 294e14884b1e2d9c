/**
 * A registry beside the other routes of a Fastify application. What is below /v2/ belongs to the registry, everything else to Fastify.
 */
import { createServer, type Server } from "node:http";
import { pathToFileURL } from "node:url";
import Fastify from "fastify";
import { localRegistry } from "oci-manifold";
import { nodeHandler, tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";

export async function start(port: number, dir = "./data"): Promise<{ server: Server; close(): Promise<void> }> {
  // Anybody who reaches this port may push: it listens on 127.0.0.1 only.
  const images = nodeHandler(localRegistry({ storage: fileStorage(dir), name: "images" }), { anonymousWrites: true });
  await images.ready();

  const app = Fastify({
    // In front of Fastify: it would parse the bodies of uploads, and answer 415 to most of them and 413 to large ones.
    serverFactory: (fastify) =>
      tuneServer(createServer((request, response) => images(request, response, () => fastify(request, response)))),
  });
  app.get("/", async () => "beside the registry");

  await app.listen({ port, host: "127.0.0.1" });
  return {
    server: app.server,
    async close() {
      const closing = app.close();
      await images.close({ deadline: "10s" });
      app.server.closeAllConnections();
      await closing;
    },
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { close } = await start(Number(process.env.PORT ?? 5000));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, close);
}
