import type { IncomingMessage, ServerResponse } from "node:http";
import type { HttpService } from "./http-service.js";
import { type NodeRequest, type NodeResponse, nodePair } from "./http2.js";
import { NodeExchange } from "./node-exchange.js";
import { whenInFront } from "./pipelining.js";
import { mayTakeLong } from "./request-timeout.js";
import { takeStream } from "./streams.js";

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
  const place = takeStream(response);
  if (place === "refused") return;
  const pair = nodePair(request, response);
  const arrived = () => {
    const peer = request.socket.remoteAddress;
    const { address, base } = service.front.arrived({ peer, address: o.address, header: (name) => lineOf(request.headers[name]) });
    const startedAt = service.now();
    return {
      base,
      exchange: new NodeExchange(pair.request, pair.response, { target: o.target, address, startedAt, guard: service.guard }),
    };
  };
  if (hasBody(pair.request)) mayTakeLong(pair.request);
  whenInFront(pair.request, pair.response, {
    start() {
      const { base, exchange } = arrived();
      pair.response.once("close", () => service.ended(exchange));
      const answered = service
        .begin(exchange, o.subject, base)
        .then((answer) => exchange.send(pair.fit(answer), (error) => service.bodyFailed(exchange, error)))
        .catch((error) => service.unsendable(exchange, error));
      if (place) void answered.then(() => leaveAfter(pair.response, place));
    },
    gone: () => service.ended(arrived().exchange),
  });
}

/** In HTTP/1; in HTTP/2 there is nothing that would end it. */
function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || (headers["content-length"] ?? "0") !== "0";
}

/** What ran for a stream is over; when the stream is too, its place is free. */
function leaveAfter(response: ServerResponse, leave: () => void): void {
  if (response.destroyed) leave();
  else response.once("close", leave);
}

function lineOf(value: string | string[] | undefined): string | undefined {
  return typeof value === "object" ? value.join(", ") : value;
}
