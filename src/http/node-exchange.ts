import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import type { ByteLease } from "../core/byte-budget.js";
import { RegistryError } from "../core/errors.js";
import type { Served } from "../core/lookup.js";
import { smallPiece } from "../core/pace.js";
import type { Caller } from "../core/registry.js";
import type { WireBody, WireResponse } from "./exchange.js";
import type { FlowGuard } from "./flow-guard.js";
import type { Transfer } from "./http-service.js";
import { NodeOutput } from "./node-output.js";
import { sendStream } from "./node-stream.js";

/** How long the rest of a refused body is read and thrown away, so that the client gets to see the refusal. */
const lingerMilliseconds = 30_000;

/** node:http sends a header and a string in one write, a header and a buffer in two: for small bodies that is a third of the whole cost. */
const oneWriteLimit = 16 * 1024;

/** One request and response of node:http, as the dispatch sees the one and answers the other. */
export class NodeExchange implements Transfer {
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
    if (body?.kind !== "stream" && (!body || body.bytes.byteLength <= smallPiece)) {
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
      highWaterMark: smallPiece,
      read() {
        const piece = bytes.subarray(at, at + smallPiece);
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
