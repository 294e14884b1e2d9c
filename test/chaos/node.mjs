// A registry on a folder, in a process of its own. CHAOS is JSON: the folder, the port, and by how many milliseconds its clock is ahead.
import { createServer } from "node:http";
import { localRegistry } from "oci-manifold";
import { nodeHandler } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";

const { folder, port, ahead = 0 } = JSON.parse(process.env.CHAOS ?? "{}");
const clock = {
  now: () => Date.now() + ahead,
  elapsed: () => performance.now(),
  sleep: (milliseconds, signal) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, milliseconds).unref();
      signal?.addEventListener("abort", () => reject(signal.reason, clearTimeout(timer)), { once: true });
    }),
};
const events = { emit: (type, event) => type === "fault" && console.error(`fault: ${event.message}`) };
const registry = localRegistry({ storage: fileStorage(folder), name: "release", events, ...(ahead !== 0 && { clock }) });
const handler = nodeHandler(registry, { anonymousWrites: true, events });
await handler.ready();
createServer(handler).listen(port, "127.0.0.1", () => console.log(`ready as ${process.pid}`));
