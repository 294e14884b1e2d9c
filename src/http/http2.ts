import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import type { WireHeaders, WireResponse } from "./exchange.js";

/** A request of node:http, or of node:http2 through its compatibility API. */
export type NodeRequest = IncomingMessage | Http2ServerRequest;
/** The response that belongs to it. */
export type NodeResponse = ServerResponse | Http2ServerResponse;

/** A request and a response of either protocol that behave like those of node:http. */
export interface NodePair {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** The response without what the protocol cannot carry. */
  fit(answer: WireResponse): WireResponse;
}

/** How long the rest of a refused body is read and thrown away; then the client is told to stop. */
const lingerMilliseconds = 30_000;

export function nodePair(request: NodeRequest, response: NodeResponse): NodePair {
  if (isHttp2(request) && isHttp2Response(response)) return levelled(request, response);
  return { request: request as IncomingMessage, response: response as ServerResponse, fit: (answer) => answer };
}

function isHttp2(request: NodeRequest): request is Http2ServerRequest {
  return request.httpVersionMajor >= 2;
}

/** Beside the other: a test tool may put the one over the other. */
export function isHttp2Response(response: NodeResponse): response is Http2ServerResponse {
  return "createPushResponse" in response;
}

/**
 * Node's compatibility API is node:http's in name, but not in what would cut a body short or leave a stream open. This levels it, on the pair itself, since
 * both are streams that others hold too.
 */
function levelled(request: Http2ServerRequest, response: Http2ServerResponse): NodePair {
  const { stream } = response;
  // In HTTP/2 most clients send no Content-Length. That no body follows is said by a flag of the headers' frame.
  if (stream.endAfterHeaders) request.headers["content-length"] ??= "0";
  failWhenCutShort(request);
  discardRest(request, response);
  const { destroy } = response;
  const define = (name: string, property: PropertyDescriptor) => Object.defineProperty(response, name, { configurable: true, ...property });
  define("destroyed", { get: () => stream.destroyed });
  // A client's reset finishes the stream as well.
  define("writableFinished", { get: () => stream.writableFinished && !stream.aborted && (stream.rstCode ?? 0) === 0 });
  // Without an error Node resets with NO_ERROR, which many clients, Node's among them, take for a good end.
  define("destroy", {
    writable: true,
    value: (error?: Error) => destroy.call(response, error ?? new Error("the response was broken off")),
  });
  return {
    request: request as unknown as IncomingMessage,
    response: response as unknown as ServerResponse,
    fit: (answer) => withoutConnection(answer, response),
  };
}

/** Where the client resets its stream, Node ends the request's body: to whoever reads it only then, a body cut short would be an empty one. */
function failWhenCutShort(request: Http2ServerRequest): void {
  const fail = () => request.destroy(new Error("the client reset the stream"));
  // Whoever reads the body gets the error; without a reader it would end the process.
  request.on("error", () => {});
  if (request.aborted) fail();
  else request.once("aborted", fail);
}

/**
 * Node tells `finish` of a response only when the whole stream is over, so nobody would read the rest of a refused body on it, and the stream would stay
 * open for ever: its flow control holds the client back.
 */
function discardRest(request: Http2ServerRequest, { stream }: Http2ServerResponse): void {
  stream.once("finish", () => {
    if (request.complete) return;
    request.resume();
    // RFC 9113 section 8.1: after a complete response, a reset without error asks the client to stop sending.
    const timer = setTimeout(() => stream.close(), lingerMilliseconds);
    timer.unref();
    stream.once("close", () => clearTimeout(timer));
  });
}

/** HTTP/2 knows no `Connection` header (RFC 9113 section 8.2.2); what `Connection: close` says is said by GOAWAY. */
function withoutConnection(answer: WireResponse, { stream }: Http2ServerResponse): WireResponse {
  const { Connection: connection, ...rest } = answer.headers;
  if (connection === undefined) return answer;
  if (connection === "close") stream.session?.close();
  const headers: WireHeaders = rest;
  return { ...answer, headers };
}
