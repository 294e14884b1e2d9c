/**
 * Serves a registry in Node's own servers and in what is built on them: `nodeHandler` is a listener of `node:http` and `node:http2` and a middleware of Express, `tuneServer` lifts the
 * limits of a server that would end large pushes. Whoever uses Koa takes `oci-manifold/koa`; whoever has Web requests and responses, `oci-manifold/fetch`.
 *
 * @example
 * ```ts
 * import { createServer } from "node:http";
 * import express from "express";
 * import { localRegistry } from "oci-manifold";
 * import { nodeHandler, tuneServer } from "oci-manifold/node";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const images = nodeHandler(localRegistry({ storage: memoryStorage(), name: "release" }), { anonymousWrites: true });
 * const app = express();
 * app.use(images); // before any body parser
 * const server = tuneServer(createServer(app)).listen(0, "127.0.0.1");
 * server.close();
 * await images.close();
 * ```
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { ReadyOptions, Registry } from "../core/registry.js";
import { notFoundResponse } from "./errors.js";
import { type HandlerLifecycle, type HandlerOptions, HttpService } from "./http-service.js";
import { mayTakeLong, takeStream, whenInFront } from "./node-connection.js";
import { headerLine, NodeExchange, type NodeRequest, type NodeResponse, nodePair } from "./node-exchange.js";

export type { AccessQuestion, Action, Authorize } from "../access/policy.js";
export type { HandlerLifecycle } from "./http-service.js";
export { type NodeServer, tuneServer } from "./tune-server.js";

/**
 * Options of {@link nodeHandler}. `Request` is the host's own request type: annotate the parameter of `caller`, e.g. with Express's `Request`. Without that
 * it is a request of HTTP/1 or HTTP/2.
 *
 * - `caller`: who calls. Default: everybody is anonymous.
 * - `authorize`: who may do what. Default: reads are open; writes and deletes are refused unless `anonymousWrites`.
 * - `anonymousWrites`: without `authorize`, everybody may push and delete. Default: false.
 * - `challenge`: the `WWW-Authenticate` of a 401. Default: `Basic realm="registry"`.
 * - `publicUrl`: where clients find the registry, without `/v2`; `Location` and `Link` then begin with it. Default: they are relative to the domain's root.
 * - `trustedProxies`: the proxies whose `X-Forwarded-` headers are believed. Default: nobody.
 * - `trustedPeers`: the other registries of this library whose `Manifold-Via` decides with whom a cache shares answers. Default: nobody.
 * - `idleTimeout`: how long a client may owe us progress without a byte moving. Default: `"60s"`.
 * - `minimumThroughput`: bytes a second, over 30 seconds of waiting for the client. Default: `"1KiB"`.
 * - `maxBuffered`: how many bytes of bodies are held in memory, of all clients together. Default: `"256MiB"`.
 * - `events`: takes `request`, `denied` and `fault` events. Default: none.
 * - `clock`: default: the system's.
 */
export type NodeHandlerOptions<Request extends NodeRequest = NodeRequest> = HandlerOptions<Request>;

/** A request listener of node:http and node:http2 and a middleware of Express and Connect, at once. */
export interface NodeHandler<Request extends NodeRequest = NodeRequest> extends HandlerLifecycle {
  /** Answers what lies at and below `/v2`. Everything else goes to `next`, or is 404 where there is none. */
  (request: Request, response: NodeResponse, next?: (error?: unknown) => void): void;
}

/**
 * Serves a registry over HTTP: as the listener of a `node:http` or `node:http2` server, or mounted in Express 4 and 5 with `app.use(handler)`.
 *
 * Mount it at the root, since docker and all others ask for `/v2/` there, and before body parsers: they would read the layers into memory. Give
 * a server of your own to {@link tuneServer}: Node's limit of five minutes for a request ends the push of a large layer over a slow line.
 *
 * @param registry any registry. The handler closes it, unless another composition still holds it.
 * @throws RegistryError UNKNOWN for a challenge that cannot be a header, and for proxies or a public URL that cannot be read.
 *
 * @example
 * ```ts
 * import { createServer } from "node:http";
 * import { localRegistry } from "oci-manifold";
 * import { nodeHandler, tuneServer } from "oci-manifold/node";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const images = nodeHandler(localRegistry({ storage: memoryStorage(), name: "release" }), {
 *   caller: (request) => (request.headers["x-user"] === "ci" ? { name: "ci" } : undefined),
 *   authorize: ({ caller, action }) => action === "pull" || caller?.name === "ci",
 * });
 * await images.ready();
 * const server = tuneServer(createServer(images));
 * server.listen(0, "127.0.0.1", async () => {
 *   await images.close({ deadline: "10s" });
 *   server.close();
 * });
 * ```
 */
export function nodeHandler<Request extends NodeRequest = NodeRequest>(
  registry: Registry,
  options: NodeHandlerOptions<Request> = {},
): NodeHandler<Request> {
  const service = new HttpService<Request>(registry, options);
  const handler = (request: Request, response: NodeResponse, next?: (error?: unknown) => void): void => {
    const target = targetOf(request);
    if (service.handles(target)) serveNode(service, request, response, { subject: request, target, address: addressOf(request) });
    else if (next) next();
    else notFound(request, response);
  };
  return Object.assign(handler, { ready: (o?: ReadyOptions) => service.ready(o), close: service.close });
}

/** Express and Connect cut the mount path off `url`; what the client asked for is in `originalUrl`. */
function targetOf(request: NodeRequest & { originalUrl?: unknown }): string {
  return typeof request.originalUrl === "string" ? request.originalUrl : (request.url ?? "/");
}

/** Express's `ip` heeds the host's "trust proxy". */
function addressOf(request: NodeRequest & { ip?: unknown }): string | undefined {
  return typeof request.ip === "string" ? request.ip : request.socket.remoteAddress;
}

function notFound(request: NodeRequest, response: NodeResponse): void {
  const { status, headers, body } = notFoundResponse(request.method);
  const text = body?.kind === "bytes" ? Buffer.from(body.bytes).toString("latin1") : undefined;
  const written = nodePair(request, response).response.writeHead(status, headers);
  // As text: with a buffer Node may put a `100 Continue` of the next request between these headers and the body.
  if (text === undefined) written.end();
  else written.end(text, "latin1");
}

/** What a framework on node:http knows of a request beside the request itself. */
export interface NodeSubject<Subject> {
  readonly subject: Subject;
  /** Path and query as the client sent them. */
  readonly target: string;
  readonly address: string | undefined;
}

/** Answers one request of node:http or node:http2. */
export function serveNode<Subject>(
  service: HttpService<Subject>,
  request: NodeRequest,
  response: NodeResponse,
  o: NodeSubject<Subject>,
): void {
  const leave = takeStream(response);
  if (leave === "refused") return;
  const pair = nodePair(request, response);
  const arrived = () => {
    const peer = request.socket.remoteAddress;
    const { address, base } = service.front.arrived({ peer, address: o.address, header: (name) => headerLine(request, name) });
    const startedAt = service.now();
    return {
      base,
      exchange: new NodeExchange(pair.request, pair.response, { target: o.target, address, startedAt, guard: service.guard }),
    };
  };
  if (hasBody(pair.request)) mayTakeLong(pair.request);
  whenInFront(pair.request, pair.response, {
    start() {
      const { base, exchange } = arrived();
      pair.response.once("close", () => service.ended(exchange));
      const answered = service
        .begin(exchange, o.subject, base)
        .then((answer) => exchange.send(pair.fit(answer), (error) => service.bodyFailed(exchange, error)))
        .catch((error) => service.unsendable(exchange, error));
      if (leave) void answered.then(() => leaveAfter(pair.response, leave));
    },
    gone: () => service.ended(arrived().exchange),
  });
}

/** In HTTP/1; in HTTP/2 there is nothing that would end it. */
function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || (headers["content-length"] ?? "0") !== "0";
}

/** What ran for a stream is over; when the stream is too, its place is free. */
function leaveAfter(response: ServerResponse, leave: () => void): void {
  if (response.destroyed) leave();
  else response.once("close", leave);
}
