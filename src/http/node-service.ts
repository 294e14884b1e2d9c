import type { IncomingMessage, ServerResponse } from "node:http";
import type { HttpService } from "./http-service.js";
import { NodeExchange } from "./node-exchange.js";

/** What a framework on node:http knows of a request beside the request itself. */
export interface NodeSubject<Subject> {
  readonly subject: Subject;
  /** Path and query as the client sent them. */
  readonly target: string;
  readonly address: string | undefined;
}

/** Answers one request of node:http. */
export function serveNode<Subject>(
  service: HttpService<Subject>,
  request: IncomingMessage,
  response: ServerResponse,
  o: NodeSubject<Subject>,
): void {
  const exchange = new NodeExchange(request, response, { target: o.target, address: o.address, startedAt: service.now() });
  response.once("close", () => service.ended(exchange));
  service
    .begin(exchange, o.subject)
    .then((answer) => exchange.send(answer, (error) => service.failed(exchange, error)))
    .catch((error) => service.unsendable(exchange, error));
}
