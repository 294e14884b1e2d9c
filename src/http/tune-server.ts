import { type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from "node:http";
import type { Http2SecureServer, Http2Server, ServerHttp2Session, Settings } from "node:http2";
import type { Server as SecureServer } from "node:https";
import type { Duplex } from "node:stream";
import { RegistryError } from "../core/errors.js";
import { errorResponse } from "./errors.js";
import type { WireResponse } from "./exchange.js";
import { liftRequestTimeout, limitPipelining, mostStreams } from "./node-connection.js";

/** The servers that take a handler as their listener. */
export type NodeServer = Server | SecureServer | Http2Server | Http2SecureServer;

/**
 * Longer than the 60 seconds for which common proxies (nginx, the load balancers of AWS and Google) keep an idle connection: were it shorter, Node would
 * close connections just as the proxy sends a request, which the proxy answers with 502.
 */
const keepAliveMilliseconds = 75_000;

/** Twice as much as Node takes: tokens that name many groups, and lists of some thousand ranges. Bytes of all headers of a request over HTTP/1. */
const headerBytes = 32 * 1024;

const tuned = new WeakSet<object>();

/**
 * Sets a server of your own up for a registry. Call it before the server listens. Idempotent.
 *
 * - `requestTimeout`, Node's 300 seconds for a whole request, holds for your other routes and no longer for the registry's: it would end the push of a large
 *   layer over a slow line with 408.
 * - `timeout = 0`: the handler breaks off transfers that stop, by its options `idleTimeout` and `minimumThroughput`.
 * - `headersTimeout` stays as it is: it ends connections that send no request.
 * - `keepAliveTimeout` is 75 seconds at least, above the 60 of common proxies. Sessions of HTTP/2 on which nothing happens end after 75 seconds.
 * - Headers of a request may have 32 KiB, over HTTP/1 too, unless you have set `maxHeaderSize`.
 * - No more is read from a connection on which 100 requests wait for the answer to one before them (pipelining).
 * - `maxConcurrentStreams` of HTTP/2 is 100, unless you have set it.
 * - `100 Continue` is sent when somebody begins to read the body, so that a push that is refused is refused before its bytes are sent.
 * - Requests that are no HTTP (400), have too large a header (431), were not sent in time (408) or expect something unknown (417) get an error as the
 *   registry's clients know it.
 *
 * Where the server has listeners of its own for `clientError`, `checkContinue` or `checkExpectation`, they are left alone.
 *
 * @example
 * ```ts
 * import { createServer } from "node:http";
 * import { localRegistry } from "oci-manifold";
 * import { nodeHandler, tuneServer } from "oci-manifold/node";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const images = nodeHandler(localRegistry({ storage: memoryStorage(), name: "release" }));
 * const server = tuneServer(createServer(images));
 * console.log(server.keepAliveTimeout); // 75000
 * ```
 */
export function tuneServer<S extends NodeServer>(server: S): S {
  if (tuned.has(server)) return server;
  tuned.add(server);
  // A server of HTTP/2 that speaks HTTP/1 too has these, and none of them in its types.
  if ("timeout" in server) Reflect.set(server, "timeout", 0);
  liftRequestTimeout(server);
  if ("keepAliveTimeout" in server && server.keepAliveTimeout > 0) {
    server.keepAliveTimeout = Math.max(server.keepAliveTimeout, keepAliveMilliseconds);
  }
  // Not in its types, and read for each connection.
  if (Reflect.get(server, "maxHeaderSize") === undefined) Reflect.set(server, "maxHeaderSize", headerBytes);
  const { on, emit } = emitterOf(server);
  // Ends a session after its last stream; running ones are the handler's business.
  on("session", (session: ServerHttp2Session) => void session.setTimeout(keepAliveMilliseconds, () => session.close()));
  if ("updateSettings" in server && settingsOf(server)?.maxConcurrentStreams === undefined) {
    server.updateSettings({ maxConcurrentStreams: mostStreams });
  }
  on("request", limitPipelining);
  if (server.listenerCount("clientError") === 0) on("clientError", refuseMalformed);
  if (server.listenerCount("checkExpectation") === 0) on("checkExpectation", refuseExpectation);
  if (server.listenerCount("checkContinue") === 0) {
    on("checkContinue", (request: IncomingMessage, response: ServerResponse) => {
      deferContinue(request, response);
      emit("request", request, response);
    });
  }
  return server;
}

/** What the host has set when it made the server: Node keeps it where only a symbol leads. */
function settingsOf(server: Http2Server | Http2SecureServer): Settings | undefined {
  const symbol = Object.getOwnPropertySymbols(server).find(({ description }) => description === "options");
  const options: unknown = symbol && Reflect.get(server, symbol);
  return typeof options === "object" && options !== null && "settings" in options ? (options.settings as Settings) : undefined;
}

/** The overloads of the four kinds of servers have no common listener type. */
function emitterOf(server: NodeServer) {
  const emitter: { on(event: string, listener: (...args: never[]) => void): unknown; emit(event: string, ...args: unknown[]): boolean } =
    server;
  return { on: emitter.on.bind(emitter), emit: emitter.emit.bind(emitter) };
}

/**
 * Sends `100 Continue` when somebody begins to read the body, whoever that is: the host's other routes wait for bodies as well. Where a final response came
 * first, Node closes the connection after it, since the client may send the body or not.
 */
function deferContinue(request: IncomingMessage, response: ServerResponse): void {
  const read = request._read;
  request._read = (size) => {
    request._read = read;
    if (!response.headersSent && !response.destroyed) response.writeContinue();
    request._read(size);
  };
}

function refuseExpectation(request: IncomingMessage, response: ServerResponse): void {
  const { status, headers, body } = refusal(417, `the expectation ${JSON.stringify(request.headers.expect ?? "")} cannot be met`);
  // What the client does next is unknown: it may send the body or not.
  const closing = request.httpVersionMajor >= 2 ? headers : { ...headers, Connection: "close" };
  response.writeHead(status, closing).end(body?.kind === "bytes" ? body.bytes : undefined);
}

/** What is wrong with a request, by the code of Node's error; other errors are of the connection, and nobody can be answered. */
function faultOf({ code = "" }: NodeJS.ErrnoException): WireResponse | undefined {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return refusal(431, "the request's header is too large");
    case "HPE_CHUNK_EXTENSIONS_OVERFLOW":
      return refusal(413, "the chunk extensions of the request's body are too large");
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return refusal(408, "the request did not arrive in time");
    default:
      return code.startsWith("HPE_") ? refusal(400, "the request is malformed") : undefined;
  }
}

function refuseMalformed(error: NodeJS.ErrnoException, socket: Duplex): void {
  const fault = faultOf(error);
  if (!fault || !socket.writable || isAnswering(socket)) {
    socket.destroy(error);
    return;
  }
  // Without the callback a client that keeps its side open would keep the connection.
  socket.end(rawResponse(fault), () => socket.destroy());
}

/** Whether a response is on its way: a second one would be read as part of its body. */
function isAnswering(socket: Duplex): boolean {
  const response: unknown = "_httpMessage" in socket ? socket._httpMessage : undefined;
  return typeof response === "object" && response !== null && "headersSent" in response && response.headersSent === true;
}

function refusal(status: number, message: string): WireResponse {
  const code = status === 408 ? "UNAVAILABLE" : "UNSUPPORTED";
  return errorResponse(new RegistryError(code, message, { status }), { head: false, challenge: "" });
}

function rawResponse({ status, headers, body }: WireResponse): Buffer {
  const lines = Object.entries({ ...headers, Date: new Date().toUTCString(), Connection: "close" });
  const head = [`HTTP/1.1 ${status} ${STATUS_CODES[status]}`, ...lines.map(([name, value]) => `${name}: ${value}`), "", ""].join("\r\n");
  return Buffer.concat([Buffer.from(head), body?.kind === "bytes" ? body.bytes : Buffer.alloc(0)]);
}
