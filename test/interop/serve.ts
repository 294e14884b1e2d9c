import { createServer } from "node:http";
import type { Registry } from "oci-manifold";
import { nodeHandler } from "oci-manifold/node";
import { atEnd, freePort } from "./processes.js";

/** Serves a registry from this process, to anybody, until the file is done. Answers its host. */
export async function serve(registry: Registry): Promise<string> {
  const handler = nodeHandler(registry, { anonymousWrites: true });
  await handler.ready();
  const server = createServer(handler);
  const port = await freePort();
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  atEnd(async () => {
    await handler.close({ deadline: "1s" });
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return `127.0.0.1:${port}`;
}
