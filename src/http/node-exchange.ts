/**
 * One request and its response in Node's servers. `nodePair` makes a pair of HTTP/2 behave like one of node:http; `NodeExchange` is what the dispatch sees of the pair, and how
 * its answer is sent; `NodeOutput` watches how the client reads that. What concerns a whole connection is in `node-connection.ts`.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { Readable } from "node:stream";
import type { ByteLease } from "../core/byte-budget.js";
import { RegistryError } from "../core/errors.js";
import type { Served } from "../core/lookup.js";
import { smallRead } from "../core/read-size.js";
import type { Caller } from "../core/registry.js";
import type { WireBody, WireHeaders, WireResponse } from "./exchange.js";
import type { Flow, FlowGuard, Unsent } from "./flow.js";
import type { ResponseTransfer } from "./http-service.js";
import { sendStream } from "./send-stream.js";

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

/** How long the rest of a refused body is read and thrown away, so that the client gets to see the refusal. In milliseconds. */
const linger = 30_000;

/** node:http sends a header and a string in one write, a header and a buffer in two: for small bodies that is a third of the whole cost. */
const oneWriteLimit = 16 * 1024;

/** One request and response of node:http, as the dispatch sees the one and answers the other. */
export class NodeExchange implements ResponseTransfer {
  readonly method: string;
  readonly target: string;
  readonly address: string | undefined;
  readonly startedAt: number;
  readonly body: AsyncIterable<Uint8Array>;
  caller: Caller | undefined = undefined;
  served: Served | undefined = undefined;
  lease: ByteLease | undefined = undefined;
  /** Body bytes handed to the connection. */
  sent = 0;
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #output: NodeOutput;
  #controller: AbortController | undefined;
  #gone = false;

  constructor(
    request: IncomingMessage,
    response: ServerResponse,
    o: { target: string; address: string | undefined; startedAt: number; guard: FlowGuard },
  ) {
    this.#request = request;
    this.#response = response;
    this.method = request.method ?? "GET";
    this.target = o.target;
    this.address = o.address;
    this.startedAt = o.startedAt;
    this.body = o.guard.incoming({ [Symbol.asyncIterator]: () => chunksOfRequest(request) });
    this.#output = new NodeOutput(response, o.guard, () => this.destroy());
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#gone && !this.#controller.signal.aborted) this.#controller.abort(clientGone());
    return this.#controller.signal;
  }

  get bodyLength(): number | undefined {
    const { headers, httpVersionMajor } = this.#request;
    if (headers["transfer-encoding"] !== undefined) return undefined;
    const length = headers["content-length"];
    // In HTTP/1 neither header means no body; in HTTP/2 it says nothing.
    return length === undefined ? (httpVersionMajor >= 2 ? undefined : 0) : Number(length);
  }

  get bodyFault(): RegistryError | undefined {
    // Not by `req.body`: express.json() sets that without reading, and express.raw() leaves it out for types that it does not know.
    if (!this.#request.readableDidRead) return undefined;
    return new RegistryError(
      "UNKNOWN",
      "the request's body was read before it reached Manifold: mount Manifold before body parsers such as express.raw() and koa-body",
    );
  }

  header(name: string): string | undefined {
    return headerLine(this.#request, name);
  }

  /** Whether the client got the whole response. */
  get complete(): boolean {
    if (this.#gone || !this.#response.writableFinished) return false;
    // A broken connection holds nothing back any more, which Node takes for finished.
    return this.#request.httpVersionMajor >= 2 || !this.#request.socket.errored;
  }

  get status(): number {
    return this.#response.statusCode;
  }

  /** The connection or the response has ended. Aborts what still runs for an unfinished one. */
  end(): void {
    if (this.complete) return;
    this.#gone = true;
    this.#controller?.abort(clientGone());
  }

  /** Breaks the connection off, and aborts what runs for it at once, before the registry is closed under it. */
  destroy(): void {
    this.end();
    this.#response.destroy();
  }

  /** @param onFailure takes the error of a body that fails, and makes the response where it has not begun. */
  send(answer: WireResponse, onFailure: (error: unknown) => WireResponse): void {
    const response = this.#response;
    // The client left, or the host answered in our place: a time-out middleware does.
    if (response.destroyed || response.headersSent) return;
    this.served = answer.served;
    this.#discardRest();
    const { status, headers, body } = answer;
    // A client that stopped in the middle of its body cannot use the connection again.
    if (status === 408 && this.#request.httpVersionMajor < 2) headers.Connection = "close";
    if (body?.kind !== "stream" && (!body || body.bytes.byteLength <= smallRead)) {
      response.writeHead(status, headers);
      this.sent = body?.bytes.byteLength ?? 0;
      if (body && body.bytes.byteLength <= oneWriteLimit) response.end(asLatin1(body.bytes), "latin1");
      else response.end(body?.bytes);
      this.#output.last(this.sent);
      return;
    }
    sendStream(
      response,
      { status, headers, body: body.kind === "stream" ? body : inPieces(body.bytes) },
      {
        output: this.#output,
        lease: this.lease,
        sent: (bytes) => {
          this.sent += bytes;
        },
        failed: (error) => this.send(onFailure(error), onFailure),
      },
    );
  }

  /**
   * What is left of the body is read and thrown away: half-read it would block the connection's next request, and a connection closed on a client that
   * still sends takes the response with it.
   */
  #discardRest(): void {
    const request = this.#request;
    if (request.readableEnded || (request.complete && !request.readableDidRead)) return;
    this.#response.once("finish", () => {
      request.resume();
      if (request.complete) return;
      const timer = setTimeout(() => request.socket.destroy(), linger);
      timer.unref();
      request.once("close", () => clearTimeout(timer));
    });
  }
}

/** A header's value by its name in lower case, several lines joined by commas. */
export function headerLine({ headers }: IncomingMessage | NodeRequest, name: string): string | undefined {
  const value = headers[name];
  return typeof value === "object" ? value.join(", ") : value;
}

/**
 * The chunks of a body. Ending the loop early leaves the connection whole, so that a response can still be sent: by default Node destroys it. There is
 * no `throw`, for the same reason.
 */
function chunksOfRequest(request: IncomingMessage): AsyncIterator<Uint8Array> {
  const chunks = request.iterator({ destroyOnReturn: false });
  return {
    next: () => chunks.next(),
    return: async () => {
      await chunks.return?.();
      return { done: true, value: undefined };
    },
  };
}

/** A connection that is not read is handed one piece: TLS, for one, copies all that it is handed. What a manifest itself takes is counted in the budget. */
function inPieces(bytes: Uint8Array): Extract<WireBody, { kind: "stream" }> {
  const open = () => {
    let at = 0;
    return new Readable({
      highWaterMark: smallRead,
      read() {
        const piece = bytes.subarray(at, at + smallRead);
        at += piece.byteLength;
        this.push(piece.byteLength > 0 ? piece : null);
      },
    });
  };
  return { kind: "stream", size: bytes.byteLength, open };
}

/** One character a byte, and back again on the wire: no byte changes. */
function asLatin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

function clientGone(): RegistryError {
  return new RegistryError("UNAVAILABLE", "the client closed the connection");
}

/** Watches how a client reads a response. Most are through at once: they are never watched and cost nothing. */
export class NodeOutput {
  readonly #response: ServerResponse;
  readonly #guard: FlowGuard;
  readonly #stalled: () => void;
  #flow: Flow | undefined;

  /** @param stalled breaks the response off. */
  constructor(response: ServerResponse, guard: FlowGuard, stalled: () => void) {
    this.#response = response;
    this.#guard = guard;
    this.#stalled = stalled;
  }

  /** These bytes were handed over, and the client has to read before there can be more. */
  waits(bytes: number): void {
    this.#flow ??= this.#begun();
    this.#flow.moved(bytes);
    this.#flow.waits();
  }

  /** These bytes were handed over. */
  moved(bytes: number): void {
    this.#flow?.moved(bytes);
  }

  /** What the system has not taken yet. */
  unsent(): Unsent {
    return unsentBytes(this.#response);
  }

  /** Everything left. */
  drained(): void {
    this.#flow?.rests();
  }

  /** The last byte was handed over; what has not left is the client's to read. */
  last(bytes: number): void {
    if (this.#response.writableLength > 0) this.waits(bytes);
    else this.drained();
  }

  #begun(): Flow {
    const response = this.#response;
    const flow = this.#guard.outgoing(() => this.unsent(), this.#stalled);
    response.once("close", () => this.#guard.end(flow));
    return flow;
  }
}

/**
 * What the system has not taken from a connection yet. A write of half a MiB is one piece to its stream, and takes minutes on a slow line: only the
 * handle below sees it become less. Node's own socket timeouts look there too.
 */
function unsentBytes(response: ServerResponse): Unsent {
  // One connection carries many responses of HTTP/2.
  if (response.req.httpVersionMajor >= 2) return "unknown";
  const { socket } = response;
  if (socket === null) return "queued";
  const handle = "_handle" in socket ? socket._handle : undefined;
  // TLS counts a write as a whole; the connection below it does not.
  return outputQueueOf(property(handle, "_parent")) ?? outputQueueOf(handle) ?? "unknown";
}

function outputQueueOf(handle: unknown): number | undefined {
  const size = property(handle, "writeQueueSize");
  return typeof size === "number" ? size : undefined;
}

function property(of: unknown, name: string): unknown {
  return typeof of === "object" && of !== null ? Reflect.get(of, name) : undefined;
}

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
  // In HTTP/2 most clients send no Content-Length. A flag of the headers' frame says that no body follows.
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
    const timer = setTimeout(() => stream.close(), linger);
    timer.unref();
    stream.once("close", () => clearTimeout(timer));
  });
}

/** HTTP/2 knows no `Connection` header (RFC 9113 section 8.2.2); GOAWAY says the same as `Connection: close`. */
function withoutConnection(answer: WireResponse, { stream }: Http2ServerResponse): WireResponse {
  const { Connection: connection, ...rest } = answer.headers;
  if (connection === undefined) return answer;
  if (connection === "close") stream.session?.close();
  const headers: WireHeaders = rest;
  return { ...answer, headers };
}
