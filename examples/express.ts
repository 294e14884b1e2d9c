/**
 * A registry beside the other routes of an Express application. What is below /v2/ belongs to the registry, everything else to Express.
 */
import { once } from "node:events";
import type { Server } from "node:http";
import { pathToFileURL } from "node:url";
import express, { type Request } from "express";
import { aggregate, localRegistry } from "oci-manifold";
import { nodeHandler, tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";

export async function start(port: number, dir = "./data"): Promise<{ server: Server; close(): Promise<void> }> {
  const storage = fileStorage(dir);
  const release = localRegistry({ storage, name: "release" });
  const prerelease = aggregate({
    local: localRegistry({ storage, name: "prerelease" }),
    connectors: [{ name: "release", source: release }],
  });
  const images = nodeHandler(prerelease, {
    caller: (request: Request) => userOf(request.get("authorization")),
    authorize: ({ caller, action }) => action === "pull" || caller?.name === "ci",
  });
  await images.ready();

  const app = express();
  // Before body parsers: they would eat the uploads, and express.raw() answers 413 to large ones.
  app.use(images);
  app.use(express.json());
  app.get("/", (_request, response) => void response.send("beside the registry"));

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

/** Stands for the application's own users: here one, `ci`, whose password is CI_PASSWORD. Without it nobody can push. */
function userOf(authorization: string | undefined): { name: string } | undefined {
  const password = process.env.CI_PASSWORD;
  return password && authorization === `Basic ${btoa(`ci:${password}`)}` ? { name: "ci" } : undefined;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { close } = await start(Number(process.env.PORT ?? 5000));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, close);
}
