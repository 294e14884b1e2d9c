import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";

const waiting = new WeakMap<Socket, Set<ServerResponse>>();

/**
 * Tells a response that waits behind another of its connection (pipelining) when that connection closes. Node tells only the one in front: the others
 * would stay for ever, with the files and upstreams they hold.
 */
export function tellWhenClosed({ socket }: IncomingMessage, response: ServerResponse): void {
  // Whatever is no longer `null` is in front, or no response of HTTP/1.
  if (response.socket !== null) return;
  const behind = waiting.get(socket) ?? watched(socket);
  behind.add(response);
  response.once("close", () => behind.delete(response));
}

/** One listener for each connection, however many requests a client sends at once. */
function watched(socket: Socket): Set<ServerResponse> {
  const behind = new Set<ServerResponse>();
  waiting.set(socket, behind);
  socket.once("close", () => {
    for (const response of behind) {
      if (response.socket !== null || response.writableFinished) continue;
      response.destroy();
      response.emit("close");
    }
  });
  return behind;
}
