import type { HttpService } from "./http-service.js";
import { type NodeRequest, type NodeResponse, nodePair } from "./http2.js";
import { NodeExchange } from "./node-exchange.js";
import { tellWhenClosed } from "./pipelining.js";
import { warnOfTimeout } from "./tune-server.js";

/** What a framework on node:http knows of a request beside the request itself. */
export interface NodeSubject<Subject> {
  readonly subject: Subject;
  /** Path and query as the client sent them. */
  readonly target: string;
  readonly address: string | undefined;
}

/** Answers one request of node:http or node:http2. */
export function serveNode<Subject>(
  service: HttpService<Subject>,
  request: NodeRequest,
  response: NodeResponse,
  o: NodeSubject<Subject>,
): void {
  const pair = nodePair(request, response);
  const peer = request.socket.remoteAddress;
  const { address, base } = service.front.arrived({ peer, address: o.address, header: (name) => lineOf(request.headers[name]) });
  const exchange = new NodeExchange(pair.request, pair.response, {
    target: o.target,
    address,
    startedAt: service.now(),
    guard: service.guard,
  });
  pair.response.once("close", () => service.ended(exchange));
  tellWhenClosed(pair.request, pair.response);
  if (exchange.bodyLength !== 0) warnOfTimeout(request);
  service
    .begin(exchange, o.subject, base)
    .then((answer) => exchange.send(pair.fit(answer), (error) => service.bodyFailed(exchange, error)))
    .catch((error) => service.unsendable(exchange, error));
}

function lineOf(value: string | string[] | undefined): string | undefined {
  return typeof value === "object" ? value.join(", ") : value;
}
