import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";

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
