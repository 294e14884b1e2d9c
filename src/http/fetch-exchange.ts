import type { ByteLease } from "../core/byte-budget.js";
import { RegistryError } from "../core/errors.js";
import type { Served } from "../core/lookup.js";
import type { Caller } from "../core/registry.js";
import type { WireResponse } from "./exchange.js";
import { openBody } from "./fetch-stream.js";
import type { FlowGuard } from "./flow.js";
import type { ResponseTransfer } from "./http-service.js";
import { webHeaders, webResponse } from "./web-response.js";

interface FetchTerms {
  readonly target: string;
  readonly address: string | undefined;
  readonly startedAt: number;
  readonly guard: FlowGuard;
  /** The response was handed over whole, or never will be. Called once. */
  ended(exchange: FetchExchange): void;
}

/** nginx's status for a client that left before there was a response. */
const clientClosedRequest = 499;

/** One Web `Request` and its `Response`, as the dispatch sees the one and answers the other. */
export class FetchExchange implements ResponseTransfer {
  readonly method: string;
  readonly target: string;
  readonly address: string | undefined;
  readonly startedAt: number;
  readonly body: AsyncIterable<Uint8Array>;
  caller: Caller | undefined = undefined;
  served: Served | undefined = undefined;
  lease: ByteLease | undefined = undefined;
  status = clientClosedRequest;
  /** Body bytes handed to the runtime. */
  sent = 0;
  /** Whether the runtime got the whole response; whether the client did, it does not tell. */
  complete = false;
  readonly #request: Request;
  readonly #controller = new AbortController();
  readonly #guard: FlowGuard;
  readonly #ended: FetchTerms["ended"];
  readonly #leave = () => this.#over(false);
  #breakOff = (_reason: Error) => {};
  #isOver = false;

  constructor(request: Request, terms: FetchTerms) {
    this.#request = request;
    this.#guard = terms.guard;
    this.#ended = terms.ended;
    this.method = request.method;
    this.target = terms.target;
    this.address = terms.address;
    this.startedAt = terms.startedAt;
    this.body = terms.guard.incoming({ [Symbol.asyncIterator]: () => this.#chunks() });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get bodyLength(): number | undefined {
    if (this.#request.body === null) return 0;
    const length = this.header("content-length");
    return length !== undefined && /^\d+$/.test(length) ? Number(length) : undefined;
  }

  get bodyFault(): RegistryError | undefined {
    const { body, bodyUsed } = this.#request;
    if (!bodyUsed && body?.locked !== true) return undefined;
    return new RegistryError(
      "UNKNOWN",
      "the request's body was read before it reached Manifold: mount Manifold before body parsers and whatever else reads it",
    );
  }

  header(name: string): string | undefined {
    return this.#request.headers.get(name) ?? undefined;
  }

  end(): void {
    if (!this.complete) this.#controller.abort(brokenOff());
  }

  destroy(): void {
    if (this.status === clientClosedRequest) this.status = 503;
    this.#breakOff(brokenOff());
    this.#over(false);
  }

  /** Follows the client from here on. Not in the constructor: what ends must have begun. */
  watch(): void {
    const { signal } = this.#request;
    if (signal.aborted) this.#leave();
    else signal.addEventListener("abort", this.#leave, { once: true });
  }

  /**
   * The `Response`. Where the transfer is broken off before, it does not wait for the registry.
   *
   * @param onFailure takes the error of a body that fails, and makes the response where it has not begun.
   * @throws TypeError for a header that the platform refuses.
   */
  async respond(answer: Promise<WireResponse>, onFailure: (error: unknown) => WireResponse): Promise<Response> {
    const wire = await Promise.race([answer, whenAborted(this.signal)]);
    if (!wire || this.#isOver) return this.#whole(onFailure(brokenOff()));
    this.served = wire.served;
    if (wire.body?.kind !== "stream") return this.#whole(wire);
    // Before anything is opened: the platform may refuse one.
    const headers = webHeaders(wire.headers);
    let body: Awaited<ReturnType<typeof openBody>>;
    try {
      body = await openBody(wire.body, {
        signal: this.signal,
        breakable: (breakOff) => {
          this.#breakOff = breakOff;
        },
        guard: this.#guard,
        stalled: () => this.destroy(),
        failed: onFailure,
        sent: (bytes) => {
          this.sent += bytes;
        },
        ended: (whole) => this.#over(whole),
      });
    } catch (error) {
      return this.#whole(onFailure(error));
    }
    if (body instanceof Uint8Array) return this.#whole({ ...wire, body: { kind: "bytes", bytes: body } });
    this.status = wire.status;
    return new Response(body, { status: wire.status, headers });
  }

  #whole(wire: WireResponse): Response {
    const bytes = wire.body?.kind === "bytes" ? wire.body.bytes : null;
    const response = webResponse(wire);
    // Broken off: this response is for a runtime that still waits for one.
    if (this.#isOver) return response;
    this.status = wire.status;
    this.sent = bytes?.byteLength ?? 0;
    this.#over(true);
    return response;
  }

  #over(whole: boolean): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.complete = whole;
    this.#request.signal.removeEventListener("abort", this.#leave);
    this.#ended(this);
  }

  /** The chunks of the body. Ending the loop early does not cancel it: some runtimes would close the connection, and with it the response. */
  #chunks(): AsyncIterator<Uint8Array> {
    const reader = this.#request.body?.getReader();
    const { bodyLength } = this;
    let received = 0;
    return {
      next: async () => {
        const read = await reader?.read();
        if (read?.value) {
          received += read.value.byteLength;
          return { done: false, value: read.value };
        }
        // Not every runtime fails the body of a client that left: half an upload must not look like a whole one.
        if (this.#request.signal.aborted || (bodyLength !== undefined && received < bodyLength)) throw brokenOff();
        return { done: true, value: undefined };
      },
      return: async () => {
        reader?.releaseLock();
        return { done: true, value: undefined };
      },
    };
  }
}

function whenAborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener("abort", () => resolve(undefined), { once: true });
  });
}

function brokenOff(): RegistryError {
  return new RegistryError("UNAVAILABLE", "the transfer was broken off");
}
