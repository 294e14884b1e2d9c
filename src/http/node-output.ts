import type { ServerResponse } from "node:http";
import type { Flow, Unsent } from "./flow.js";
import type { FlowGuard } from "./flow-guard.js";

/** Watches how a client reads a response. Most are through at once: they are never watched and cost nothing. */
export class NodeOutput {
  readonly #response: ServerResponse;
  readonly #guard: FlowGuard;
  readonly #stalled: () => void;
  #flow: Flow | undefined;

  /** @param stalled breaks the response off. */
  constructor(response: ServerResponse, guard: FlowGuard, stalled: () => void) {
    this.#response = response;
    this.#guard = guard;
    this.#stalled = stalled;
  }

  /** These bytes were handed over, and the client has to read before there can be more. */
  waits(bytes: number): void {
    this.#flow ??= this.#begun();
    this.#flow.moved(bytes);
    this.#flow.waits();
  }

  /** These bytes were handed over. */
  moved(bytes: number): void {
    this.#flow?.moved(bytes);
  }

  /** What the system has not taken yet. */
  unsent(): Unsent {
    return unsentBytes(this.#response);
  }

  /** Everything left. */
  drained(): void {
    this.#flow?.rests();
  }

  /** The last byte was handed over; what has not left is the client's to read. */
  last(bytes: number): void {
    if (this.#response.writableLength > 0) this.waits(bytes);
    else this.drained();
  }

  #begun(): Flow {
    const response = this.#response;
    const flow = this.#guard.outgoing(() => this.unsent(), this.#stalled);
    response.once("close", () => this.#guard.end(flow));
    return flow;
  }
}

/**
 * What the system has not taken from a connection yet. A write of half a MiB is one piece to its stream, and takes minutes on a slow line: only the
 * handle below sees it become less. Node's own socket timeouts look there too.
 */
function unsentBytes(response: ServerResponse): Unsent {
  // One connection carries many responses of HTTP/2.
  if (response.req.httpVersionMajor >= 2) return "unknown";
  const { socket } = response;
  if (socket === null) return "queued";
  const handle = "_handle" in socket ? socket._handle : undefined;
  // TLS counts a write as a whole; the connection below it does not.
  return queueOf(property(handle, "_parent")) ?? queueOf(handle) ?? "unknown";
}

function queueOf(handle: unknown): number | undefined {
  const size = property(handle, "writeQueueSize");
  return typeof size === "number" ? size : undefined;
}

function property(of: unknown, name: string): unknown {
  return typeof of === "object" && of !== null ? Reflect.get(of, name) : undefined;
}
