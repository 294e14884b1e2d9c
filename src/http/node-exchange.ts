import type { IncomingMessage, ServerResponse } from "node:http";
import { constants, type Http2ServerRequest, type Http2ServerResponse, type Http2Session } from "node:http2";
import type { Socket } from "node:net";
import { Readable } from "node:stream";
import type { ByteLease } from "../core/byte-budget.js";
import { RegistryError } from "../core/errors.js";
import type { Served } from "../core/lookup.js";
import { smallRead } from "../core/read-size.js";
import type { Caller } from "../core/registry.js";
import type { WireBody, WireHeaders, WireResponse } from "./exchange.js";
import type { FlowGuard } from "./flow.js";
import type { ResponseTransfer } from "./http-service.js";
import { NodeOutput, sendStream } from "./node-output.js";

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
const streamLinger = 30_000;

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
    const timer = setTimeout(() => stream.close(), streamLinger);
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

/** How long the rest of a refused body is read and thrown away, so that the client gets to see the refusal. */
const lingerMilliseconds = 30_000;

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
    const value = this.#request.headers[name];
    return typeof value === "object" ? value.join(", ") : value;
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

  /** The connection or the response has ended: what still runs for an unfinished one is told to stop. */
  end(): void {
    if (this.complete) return;
    this.#gone = true;
    this.#controller?.abort(clientGone());
  }

  /** Breaks the connection off. What runs for it is told at once, before the registry is closed under it. */
  destroy(): void {
    this.end();
    this.#response.destroy();
  }

  /** @param onFailure is told of a body that fails, and makes the response where it has not begun. */
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
      const timer = setTimeout(() => request.socket.destroy(), lingerMilliseconds);
      timer.unref();
      request.once("close", () => clearTimeout(timer));
    });
  }
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

/**
 * How many requests of a connection wait behind the one that is answered before no more are read from it. Registry clients send none before they have the answer
 * to the last one.
 */
const mostWaiting = 100;

interface Waiting {
  /** Its response is in front: it may be answered. */
  start(): void;
  /** The connection closed before. */
  gone(): void;
}

const queues = new WeakMap<Socket, Queue>();

/**
 * Calls `start` when the response is at the front of its connection: at once, or behind others where the client sends requests before it has the answers to
 * those before (pipelining). Until then nothing is looked up or opened for it.
 *
 * @param waiting.gone called in place of `start` when the connection closes before.
 */
export function whenInFront({ socket }: IncomingMessage, response: ServerResponse, waiting: Waiting): void {
  // Node sets the socket of a response when it comes to the front, and HTTP/2 has it from the beginning. A response that is over needs no place in the queue.
  if (response.socket !== null || response.writableEnded || response.destroyed) waiting.start();
  else queueOf(socket).add(response, waiting);
}

/**
 * Reads no more from a connection on which many requests wait, for this handler or for other routes of the server. Frameworks begin with each request at once.
 */
export function limitPipelining(request: IncomingMessage, response: ServerResponse): void {
  if (request.httpVersionMajor < 2) whenInFront(request, response, { start() {}, gone() {} });
}

function queueOf(socket: Socket): Queue {
  const known = queues.get(socket);
  if (known) return known;
  const queue = new Queue(socket);
  queues.set(socket, queue);
  return queue;
}

/** Requests that wait behind another one of their connection. */
class Queue {
  readonly #socket: Socket;
  readonly #waiting = new Map<ServerResponse, Waiting[]>();
  #stopped = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    // One listener for each connection, however many requests a client sends at once. Node tells only the response in front.
    socket.once("close", () => this.#closed());
  }

  add(response: ServerResponse, waiting: Waiting): void {
    const others = this.#waiting.get(response);
    if (others) {
      others.push(waiting);
      return;
    }
    const all = [waiting];
    this.#waiting.set(response, all);
    const { assignSocket } = response;
    // Node calls this, and emits nothing, when the response before has been sent.
    response.assignSocket = (socket) => {
      response.assignSocket = assignSocket;
      assignSocket.call(response, socket);
      this.#waiting.delete(response);
      if (this.#waiting.size < mostWaiting) this.#readOn();
      for (const one of all) one.start();
    };
    if (this.#waiting.size >= mostWaiting) this.#stopReading();
  }

  /**
   * Node resumes a connection at the end of each request, before the answer. So what resumes it does nothing for a while. What the system has read already,
   * 64 KiB at most, is parsed to its end.
   */
  #stopReading(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    const socket = this.#socket;
    socket.pause();
    socket.resume = () => socket;
  }

  #readOn(): void {
    if (!this.#stopped) return;
    this.#stopped = false;
    Reflect.deleteProperty(this.#socket, "resume");
    this.#socket.resume();
  }

  #closed(): void {
    for (const [response, all] of this.#waiting) {
      response.destroy();
      for (const one of all) one.gone();
      response.emit("close");
    }
    this.#waiting.clear();
  }
}

/** RFC 9113 advises no fewer. Registry clients pull some ten blobs at a time. */
export const mostStreams = 100;

/** Streams of a session that are answered, also those whose client has reset them and whose work still runs. */
const running = new WeakMap<Http2Session, number>();
const limited = new WeakSet<Http2Session>();

/**
 * Takes one of the {@link mostStreams} places of an HTTP/2 session. The server's settings tell the client how many there are; where it does not keep to that, or resets streams to open
 * others in their place while what they asked for still runs, the stream is refused, which says that nothing was done.
 *
 * @returns what gives the place back; undefined in HTTP/1; "refused" also where the client has reset the stream already.
 */
export function takeStream(response: NodeResponse): (() => void) | "refused" | undefined {
  if (!isHttp2Response(response)) return undefined;
  const { stream } = response;
  const { session } = stream;
  if (!session || stream.destroyed || stream.aborted) return "refused";
  limitStreams(session);
  const count = running.get(session) ?? 0;
  if (count >= mostStreams) {
    // Node tells the request of it, which nobody looks at.
    response.req.on("error", () => {});
    stream.close(constants.NGHTTP2_REFUSED_STREAM);
    return "refused";
  }
  running.set(session, count + 1);
  return () => void running.set(session, (running.get(session) ?? 1) - 1);
}

/** Tells a client how many streams it may have, unless the host allows it fewer. */
export function limitStreams(session: Http2Session): void {
  if (limited.has(session)) return;
  limited.add(session);
  const tell = () => {
    if (session.destroyed || session.closed || (session.localSettings.maxConcurrentStreams ?? mostStreams) <= mostStreams) return;
    session.settings({ maxConcurrentStreams: mostStreams });
  };
  // What the host has set holds once the client has confirmed it.
  if (session.pendingSettingsAck) session.once("localSettings", tell);
  else tell();
}
