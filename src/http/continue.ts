import type { IncomingMessage, ServerResponse } from "node:http";

/**
 * Sends `100 Continue` when somebody begins to read the body, whoever that is: the host's other routes wait for bodies as well. Where a final response came
 * first, Node closes the connection after it, since the client may send the body or not.
 */
export function deferContinue(request: IncomingMessage, response: ServerResponse): void {
  const read = request._read;
  request._read = (size) => {
    request._read = read;
    if (!response.headersSent && !response.destroyed) response.writeContinue();
    request._read(size);
  };
}
