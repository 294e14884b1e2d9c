/**
 * A registry beside the other routes of a Hono application, here on Node. What is below /v2/ belongs to the registry, everything else to Hono.
 */
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { pathToFileURL } from "node:url";
import { getRequestListener } from "@hono/node-server";
import { Hono } from "hono";
import { localRegistry } from "oci-manifold";
import { fetchHandler } from "oci-manifold/fetch";
import { tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";

export async function start(port: number, dir = "./data"): Promise<{ server: Server; close(): Promise<void> }> {
  // Anybody who reaches this port may push: it listens on 127.0.0.1 only.
  const images = fetchHandler(localRegistry({ storage: fileStorage(dir), name: "images" }), { anonymousWrites: true });
  await images.ready();

  const app = new Hono();
  // Before middleware that reads bodies or compresses responses.
  app.all("/v2/*", (context) => images(context.req.raw));
  app.get("/", (context) => context.text("beside the registry"));

  const server = tuneServer(createServer(getRequestListener(app.fetch)));
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  return {
    server,
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
