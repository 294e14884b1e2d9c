import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";

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
