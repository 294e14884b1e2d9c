import { createServer, type RequestListener, type Server } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { type EventSink, type Events, localRegistry, type Registry } from "oci-manifold";
import { type NodeHandler, type NodeHandlerOptions, nodeHandler, tuneServer } from "oci-manifold/node";
import { memoryStorage } from "oci-manifold/storage/memory";
import { onTestFinished } from "vitest";

export interface Served {
  readonly url: string;
  readonly port: number;
  readonly server: Server;
}

/** A server on a free port, closed when the test ends. */
export async function listening(listener: RequestListener): Promise<Served> {
  const server = tuneServer(createServer(listener));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, port, server };
}

export interface Site extends Served {
  readonly registry: Registry;
  readonly handler: NodeHandler;
  fetch(path: string, init?: RequestInit): Promise<Response>;
}

export function emptyRegistry(): Registry {
  return localRegistry({ storage: memoryStorage(), name: "test" });
}

/** A registry open to everybody, behind a real socket. */
export async function site(registry: Registry = emptyRegistry(), options: NodeHandlerOptions = { anonymousWrites: true }): Promise<Site> {
  const handler = nodeHandler(registry, options);
  const served = await listening(handler);
  return { ...served, registry, handler, fetch: (path, init) => fetch(served.url + path, { redirect: "manual", ...init }) };
}

/** A registry with some methods replaced. */
export function overriding(registry: Registry, methods: Partial<Registry>): Registry {
  return { ...registry, ...methods };
}

/** What a raw socket gets for these bytes; ends when the server closes or is quiet. */
export function raw(port: number, text: string | Buffer): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(text));
    let received = "";
    socket.setTimeout(500, () => socket.destroy());
    socket.on("data", (chunk) => {
      received += chunk.toString("latin1");
    });
    socket.on("close", () => resolve(received));
    socket.on("error", (error) => (received ? resolve(received) : reject(error)));
  });
}

/** One request with an unnormalized path; fetch would resolve dot segments. */
export async function rawGet(port: number, target: string): Promise<{ status: number; head: string; body: string }> {
  const text = await raw(port, `GET ${target} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\r\n`);
  const [head = "", body = ""] = text.split("\r\n\r\n", 2);
  return { status: Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1]), head, body };
}

export async function errorCode(response: Response): Promise<string> {
  const body = (await response.json()) as { errors: { code: string; message: string }[] };
  return body.errors[0]?.code ?? "none";
}

/** Keeps every event. */
export function recorder(): EventSink & {
  events: { type: keyof Events; event: Events[keyof Events] }[];
  of<K extends keyof Events>(type: K): Events[K][];
} {
  const events: { type: keyof Events; event: Events[keyof Events] }[] = [];
  return {
    events,
    emit(type, event) {
      events.push({ type, event });
    },
    of: <K extends keyof Events>(type: K) => events.filter((one) => one.type === type).map((one) => one.event as Events[K]),
  };
}
