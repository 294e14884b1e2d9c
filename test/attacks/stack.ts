import { once } from "node:events";
import { createServer, request as http1Request, type IncomingMessage, type Server } from "node:http";
import { connect, createServer as createHttp2Server, type Http2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { getRequestListener } from "@hono/node-server";
import Fastify from "fastify";
import Koa from "koa";
import {
  type AggregateOptions,
  type AggregateRegistry,
  aggregate,
  type CachedOptions,
  type Connector,
  cached,
  type LocalRegistryOptions,
  localRegistry,
  mediaTypes,
  type Registry,
  remoteRegistry,
  routes,
  type Storage,
} from "oci-manifold";
import { digestOf, type StoringRegistry } from "oci-manifold/extend";
import { type FetchHandlerOptions, fetchHandler } from "oci-manifold/fetch";
import { koaHandler } from "oci-manifold/koa";
import { type HandlerLifecycle, type NodeHandlerOptions, nodeHandler, tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";
import { type FakeUpstream, fakeUpstream } from "oci-manifold/testing";
import { onTestFinished } from "vitest";
import { type Image, makeImage } from "../fixtures/images.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

/** The protocols that an attack runs over, for `test.each`. */
export const protocols = ["HTTP/1.1", "HTTP/2"] as const;
export type Protocol = (typeof protocols)[number];
/** The protocols, and the frameworks that the handler can be mounted in. */
export const fronts = [...protocols, "Koa", "Fastify", "Fetch"] as const;
export type Front = (typeof fronts)[number];

export interface Answer {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

export interface Ask {
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | string;
}

export interface StackOptions {
  /** Of another stack, to be a second node over the same storage. Default: a new one. */
  readonly folder?: string;
  /** Default: HTTP/1.1, without a framework. */
  readonly front?: Front;
  /** Around the storage that all share. */
  readonly storage?: (storage: Storage) => Storage;
  /** Of the registries `release` and `prerelease`. */
  readonly local?: Partial<LocalRegistryOptions>;
  /** Of the connector `hub` of `prerelease`: filters, names, copying. */
  readonly hub?: Partial<Connector>;
  /** Of the connector `release` of `prerelease`. */
  readonly release?: Partial<Connector>;
  /** Of the cache of the upstream. */
  readonly cache?: Partial<CachedOptions>;
  readonly aggregate?: Partial<AggregateOptions>;
  readonly handler?: NodeHandlerOptions;
  /** Whether the server goes through `tuneServer`. Default: true. */
  readonly tuned?: boolean;
  /** Puts a view around one of the routes before it is served. */
  readonly wrap?: (route: "release" | "prerelease" | "hub", registry: Registry) => Registry;
  /** Further routes over the same parts, as views of them. */
  readonly more?: (parts: StackParts) => Readonly<Record<string, Registry>>;
}

export interface StackParts {
  readonly release: StoringRegistry;
  readonly prerelease: AggregateRegistry;
  readonly hub: Registry;
}

export interface Stack {
  readonly upstream: FakeUpstream;
  /** The folder of all that is stored. */
  readonly folder: string;
  readonly port: number;
  readonly server: Server | Http2Server;
  /** One request over the stack's protocol, HTTP/1.1 with a framework, on a connection of its own. */
  ask(method: string, path: string, o?: Ask): Promise<Answer>;
  /** Uploads the bytes under their digest. */
  putBlob(repository: string, bytes: Uint8Array): Promise<Answer>;
  putManifest(repository: string, reference: string, bytes: Uint8Array | string, mediaType?: string): Promise<Answer>;
  /** Pushes all blobs and the manifest; throws when one is refused. */
  pushImage(repository: string, tag: string, image?: Image): Promise<Image>;
}

/**
 * The composition that attacks are aimed at, behind a real socket: `release` and `prerelease` store in one folder; `prerelease` shows `release` and, through a
 * cache in the same folder, a scripted upstream; `hub` is that cache by itself. Everything ends with the test.
 */
export async function stack(options: StackOptions = {}): Promise<Stack> {
  const folder = options.folder ?? join(temporaryFolder(), "data");
  const files = fileStorage(folder);
  const storage = options.storage?.(files) ?? files;
  const upstream = await fakeUpstream();
  const release = localRegistry({ storage, name: "release", ...options.local });
  const hub = cached(remoteRegistry(upstream.url), { storage, name: "hub", ...options.cache });
  const prerelease = aggregate({
    local: localRegistry({ storage, name: "prerelease", ...options.local }),
    connectors: [
      { name: "release", source: release, ...options.release },
      { name: "hub", source: hub, ...options.hub },
    ],
    ...options.aggregate,
  });
  const wrap = options.wrap ?? ((_route, registry) => registry);
  const table = routes({
    release: wrap("release", release),
    prerelease: wrap("prerelease", prerelease),
    hub: wrap("hub", hub),
    ...options.more?.({ release, prerelease, hub }),
  });
  const { front = "HTTP/1.1" } = options;
  const { handler, server } = await served(front, table, { anonymousWrites: true, ...options.handler });
  if (options.tuned !== false) tuneServer(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  onTestFinished(async () => {
    await handler.close({ deadline: "1ms" });
    server.close();
    await upstream.close();
  });

  const ask = front === "HTTP/2" ? overHttp2(port) : overHttp1(port);
  const putBlob = async (repository: string, bytes: Uint8Array) => {
    const started = await ask("POST", `/v2/${repository}/blobs/uploads/`);
    const location = started.headers.location ?? "";
    return ask("PUT", `${location}${location.includes("?") ? "&" : "?"}digest=${digestOf(bytes)}`, { body: bytes });
  };
  const putManifest = (repository: string, reference: string, body: Uint8Array | string, mediaType: string = mediaTypes.ociManifest) =>
    ask("PUT", `/v2/${repository}/manifests/${reference}`, { body, headers: { "content-type": mediaType } });
  return {
    upstream,
    folder,
    port,
    server,
    ask,
    putBlob,
    putManifest,
    async pushImage(repository, tag, image = makeImage()) {
      const answers = [];
      for (const bytes of image.blobs.values()) answers.push(await putBlob(repository, bytes));
      answers.push(await putManifest(repository, tag, image.manifest));
      for (const { status, body } of answers) if (status !== 201) throw new Error(`the push was answered ${status}: ${body}`);
      return image;
    },
  };
}

/** A server that is ready and does not listen yet. */
async function served(
  front: Front,
  registry: Registry,
  options: NodeHandlerOptions,
): Promise<{ handler: HandlerLifecycle; server: Server | Http2Server }> {
  if (front === "Fetch") {
    const { caller, ...rest } = options;
    // Callers of attacks are told by headers alone, which a Request has in another form.
    const told = caller && ((request: Request) => caller({ headers: Object.fromEntries(request.headers) } as IncomingMessage));
    const handler = fetchHandler(registry, { ...(rest as FetchHandlerOptions), ...(told && { caller: told }) });
    await handler.ready();
    return { handler, server: createServer(getRequestListener(handler)) };
  }
  const handler = nodeHandler(registry, options);
  await handler.ready();
  switch (front) {
    case "HTTP/1.1":
      return { handler, server: createServer(handler) };
    case "HTTP/2":
      return { handler, server: createHttp2Server(handler) };
    case "Koa": {
      const app = new Koa();
      app.use(koaHandler(handler));
      return { handler, server: createServer(app.callback()) };
    }
    case "Fastify": {
      const app = Fastify();
      app.addHook("onRequest", (request, reply) => {
        reply.hijack();
        handler(request.raw, reply.raw);
      });
      await app.ready();
      return { handler, server: createServer(app.routing) };
    }
  }
}

/** The code of an error's body. */
export function codeOf({ body }: Answer): string | undefined {
  return (JSON.parse(body.toString()) as { errors: { code: string }[] }).errors[0]?.code;
}

function overHttp1(port: number): Stack["ask"] {
  return (method, path, { headers = {}, body } = {}) =>
    new Promise((resolve, reject) => {
      const request = http1Request({ host: "127.0.0.1", port, method, path, agent: false, headers }, async (response) => {
        try {
          const bytes = Buffer.concat(await response.toArray());
          resolve({ status: response.statusCode ?? 0, headers: flat(response.headers), body: bytes });
        } catch (error) {
          reject(error);
        }
      });
      request.on("error", reject);
      request.end(body);
    });
}

function overHttp2(port: number): Stack["ask"] {
  return (method, path, { headers = {}, body } = {}) =>
    new Promise((resolve, reject) => {
      const session = connect(`http://127.0.0.1:${port}`);
      const stream = session.request({ ...headers, ":method": method, ":path": path }, { endStream: body === undefined });
      let answered: Record<string, string> = {};
      const chunks: Buffer[] = [];
      stream.on("response", (received) => {
        answered = flat(received);
      });
      stream.on("data", (chunk: Buffer) => chunks.push(chunk));
      stream.on("error", reject);
      session.on("error", reject);
      stream.on("close", () => {
        session.close();
        resolve({ status: Number(answered[":status"]), headers: answered, body: Buffer.concat(chunks) });
      });
      if (body !== undefined) stream.end(body);
    });
}

function flat(headers: Readonly<Record<string, unknown>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : String(value)]),
  );
}
