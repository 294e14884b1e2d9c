import { existsSync } from "node:fs";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { atEnd, freePort, RunningProcess } from "../interop/processes.js";

const script = fileURLToPath(new URL("./cluster-node.mjs", import.meta.url));
const library = fileURLToPath(new URL("../../dist/index.js", import.meta.url));

/** What `cluster-node.mjs` makes a storage of. */
export type StorageSettings =
  | { readonly kind: "files"; readonly folder: string }
  | {
      readonly kind: "s3+postgres";
      readonly endpoint: string;
      readonly bucket: string;
      readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string };
      readonly database: object;
      readonly schema: string;
    };

/** A process of the cluster: it can be killed and started again at the same port. */
export class ClusterNode {
  readonly port: number;
  readonly #settings: string;
  #process: RunningProcess | undefined;

  constructor(port: number, upstream: string, storage: StorageSettings) {
    this.port = port;
    this.#settings = JSON.stringify({ port, upstream, storage });
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    this.#process = new RunningProcess(process.execPath, [script], { NODE: this.#settings });
    await this.#process.listening(this.port);
  }

  async kill(): Promise<void> {
    await this.#process?.stop("SIGKILL");
  }
}

export interface Cluster {
  readonly nodes: readonly ClusterNode[];
  /** Where the load balancer listens. */
  readonly origin: string;
}

export async function startCluster(count: number, upstream: string, storage: StorageSettings): Promise<Cluster> {
  if (!existsSync(library)) throw new Error("the library is not built: npm run build");
  const nodes: ClusterNode[] = [];
  for (let made = 0; made < count; made++) nodes.push(new ClusterNode(await freePort(), upstream, storage));
  await Promise.all(nodes.map((node) => node.start()));
  return { nodes, origin: await balancer(nodes.map(({ port }) => port)) };
}

/** Sends every request to a node at random. Where nobody listens another is tried; whatever breaks later breaks for the client too. */
async function balancer(ports: readonly number[]): Promise<string> {
  const server = createServer((incoming, outgoing) => forward(incoming, outgoing, shuffled(ports)));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  atEnd(async () => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function forward(incoming: IncomingMessage, outgoing: ServerResponse, [port, ...others]: readonly number[]): void {
  if (port === undefined) {
    outgoing.writeHead(502).end();
    return;
  }
  const { method, url, headers } = incoming;
  let connected = false;
  const sent = request({ host: "127.0.0.1", port, method, path: url, headers, agent: false }, (answer) => {
    outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
    answer.pipe(outgoing);
    answer.on("error", () => outgoing.destroy());
    answer.on("aborted", () => outgoing.destroy());
  });
  sent.on("socket", (socket) => {
    socket.once("connect", () => {
      connected = true;
      incoming.pipe(sent);
    });
  });
  sent.on("error", () => {
    if (connected) outgoing.destroy();
    else forward(incoming, outgoing, others);
  });
  outgoing.on("close", () => sent.destroy());
}

export function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, place: Math.random() }))
    .sort((a, b) => a.place - b.place)
    .map(({ item }) => item);
}
