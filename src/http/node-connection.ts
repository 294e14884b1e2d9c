/**
 * What a handler keeps an eye on beside the single request, on the connections of Node's servers:
 *
 * - `whenInFront`: a request of HTTP/1 is answered only once its response is in front, and a connection on which many requests wait is read no further (pipelining).
 * - `takeStream`: a session of HTTP/2 has so many streams at a time, and no more by resetting some.
 * - `mayTakeLong`: the body of a request to a registry may take longer than the server's `requestTimeout`.
 *
 * `node.ts` asks them for each request of a registry, `tuneServer` sets a whole server up by them.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { constants, type Http2Session } from "node:http2";
import type { Socket } from "node:net";
import { isHttp2Response, type NodeResponse } from "./node-exchange.js";

interface Waiting {
  /** Its response is in front: it may be answered. */
  start(): void;
  /** The connection closed before. */
  gone(): void;
}

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

const queues = new WeakMap<Socket, Queue>();

function queueOf(socket: Socket): Queue {
  const known = queues.get(socket);
  if (known) return known;
  const queue = new Queue(socket);
  queues.set(socket, queue);
  return queue;
}

/**
 * How many requests of a connection wait behind the one that is answered before no more are read from it. Registry clients send none before they have the answer
 * to the last one.
 */
const mostWaiting = 100;

/** Requests that wait behind another one of their connection. */
class Queue {
  readonly #socket: Socket;
  readonly #waiting = new Map<ServerResponse, Waiting[]>();
  #stopped = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    // One listener for each connection, however many requests a client sends at once. Node informs only the response in front.
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

/** How many streams of a session are being answered. A stream that its client has reset counts while its work still runs. */
const running = new WeakMap<Http2Session, number>();
const limited = new WeakSet<Http2Session>();

/**
 * Takes one of the {@link mostStreams} places of an HTTP/2 session. The server's settings name their number. A client may ignore that, or reset streams and open others while the
 * work of the first still runs. Then the stream is refused, which says that nothing was done.
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
    // The request gets an error, which nobody waits for.
    response.req.on("error", () => {});
    stream.close(constants.NGHTTP2_REFUSED_STREAM);
    return "refused";
  }
  running.set(session, count + 1);
  return () => void running.set(session, (running.get(session) ?? 1) - 1);
}

/** The settings of the session name the limit, unless the host allows fewer. */
function limitStreams(session: Http2Session): void {
  if (limited.has(session)) return;
  limited.add(session);
  const announce = () => {
    if (session.destroyed || session.closed || (session.localSettings.maxConcurrentStreams ?? mostStreams) <= mostStreams) return;
    session.settings({ maxConcurrentStreams: mostStreams });
  };
  // What the host has set holds once the client has confirmed it.
  if (session.pendingSettingsAck) session.once("localSettings", announce);
  else announce();
}

/** The last request of each connection that had a body and was for a registry. */
const received = new WeakMap<object, IncomingMessage>();

/** Servers whose `requestTimeout` leaves those alone. */
const lifted = new WeakSet<object>();
/** Servers that were warned about. */
const warned = new WeakSet<object>();

/**
 * The body of this request may take as long as its handler lets it: the handler breaks off clients that stop. Warns, once for each server, where Node will end slow
 * pushes all the same.
 */
export function mayTakeLong(request: IncomingMessage): void {
  const { socket } = request;
  received.set(socket, request);
  // Sockets know their server; the types do not say so.
  const server: unknown = "server" in socket ? socket.server : undefined;
  if (typeof server !== "object" || server === null || !("requestTimeout" in server)) return;
  const { requestTimeout } = server;
  if (typeof requestTimeout !== "number" || requestTimeout === 0 || lifted.has(server) || warned.has(server)) return;
  warned.add(server);
  process.emitWarning(
    `the server ends every request after requestTimeout = ${requestTimeout} ms, slow pushes too: pass it to tuneServer() of oci-manifold/node, or set requestTimeout = 0`,
    "ManifoldWarning",
  );
}

/**
 * Takes the requests that {@link mayTakeLong} names out of the server's `requestTimeout`. Node tells of a request that took too long by the event `clientError`,
 * and leaves what becomes of the connection to the event's listeners. So the event is not emitted for these requests, also where the host has a listener of its own; for all others it is.
 */
export function liftRequestTimeout(server: object & { emit(event: string, ...args: never[]): boolean }): void {
  lifted.add(server);
  const { emit } = server;
  const emitted = function (this: unknown, event: string, ...args: never[]): boolean {
    const [error, socket]: readonly unknown[] = args;
    if (event === "clientError" && isRequestTimeout(error) && isReceived(socket)) return true;
    return emit.call(this, event, ...args);
  };
  Object.defineProperty(server, "emit", { value: emitted, configurable: true, writable: true });
}

function isRequestTimeout(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ERR_HTTP_REQUEST_TIMEOUT";
}

/** Whether the body that the connection is in the middle of is one that may take long. */
function isReceived(socket: unknown): boolean {
  const request = received.get(socket as Socket);
  return request !== undefined && !request.complete && !request.destroyed;
}
