/**
 * A cache of Docker Hub beside the other routes of a Koa application. What is below /v2/ belongs to the registry, everything else to Koa.
 */
import { once } from "node:events";
import type { Server } from "node:http";
import { pathToFileURL } from "node:url";
import Koa from "koa";
import { cached, dockerHub, localRegistry, routes } from "oci-manifold";
import { koaHandler } from "oci-manifold/koa";
import { tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";

export async function start(port: number, dir = "./data"): Promise<{ server: Server; close(): Promise<void> }> {
  const storage = fileStorage(dir);
  const team = localRegistry({ storage, name: "team" });
  const hub = cached(dockerHub(), { storage, name: "hub" });
  // Anybody who reaches this port may push: it listens on 127.0.0.1 only.
  const images = koaHandler(routes({ team, hub }), { anonymousWrites: true });
  await images.ready();

  const app = new Koa();
  // Before body parsers, which would eat the uploads.
  app.use(images);
  app.use((context) => {
    context.body = "beside the registry";
  });

  // A slow push of a large layer may take longer than Node's limit of five minutes for a whole request.
  const server = tuneServer(app.listen(port, "127.0.0.1"));
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
