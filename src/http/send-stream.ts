/**
 * Sends a stream of known size to a client of Node's servers. `sendStream` passes chunks from the source to the response and stops where either fails; its `Pacing` decides how much
 * the source reads at once, so that clients that do not read hold little memory and those that do are served fast.
 */
import type { ServerResponse } from "node:http";
import type { Readable } from "node:stream";
import type { ByteLease } from "../core/byte-budget.js";
import { largeRead, smallRead, withReadSize } from "../core/read-size.js";
import type { WireBody, WireHeaders } from "./exchange.js";
import type { Unsent } from "./flow.js";

interface StreamAnswer {
  readonly status: number;
  readonly headers: WireHeaders;
  readonly body: Extract<WireBody, { kind: "stream" }>;
}

/** What watches how the client reads. */
interface Output {
  /** These bytes were handed over, and the client has to read before there can be more. */
  waits(bytes: number): void;
  /** These bytes were handed over. */
  moved(bytes: number): void;
  /** Everything left. */
  drained(): void;
  /** The last byte was handed over. */
  last(bytes: number): void;
  unsent(): Unsent;
}

interface StreamReport {
  /** What the transfer holds in memory. */
  readonly lease: ByteLease | undefined;
  /** Hears when the client is waited for. Waiting for the source is nobody's fault. */
  readonly output: Output;
  /** Called with the size of each chunk that was handed to the connection. */
  sent(bytes: number): void;
  /** The source failed. Before its first byte another response can still be sent. */
  failed(error: unknown): void;
}

/**
 * Sends a stream of known size. Three things set it apart from `stream.pipeline`: the headers wait for the first byte, so that a source that
 * cannot be opened is an error response and not a broken connection; a source of another length than promised breaks the connection, which is the
 * only way to tell the client; and a pull of many small layers does not pay for the machinery.
 */
export function sendStream(response: ServerResponse, answer: StreamAnswer, report: StreamReport): void {
  const { size } = answer.body;
  const { output } = report;
  let source: ReturnType<typeof answer.body.open>;
  try {
    source = answer.body.open();
  } catch (error) {
    report.failed(error);
    return;
  }
  const pacing = new Pacing({ source, response, output, lease: report.lease });
  let sent = 0;
  let over = false;

  const fail = (error: unknown) => {
    if (over) return;
    over = true;
    source.destroy();
    response.off("drain", resume);
    const begun = response.headersSent;
    report.failed(error);
    if (begun) response.destroy();
  };
  const resume = () => {
    output.drained();
    pacing.goOn();
    source.resume();
  };

  const begin = (): boolean => {
    if (response.headersSent) {
      fail(new Error("the host answered in our place"));
      return false;
    }
    try {
      response.writeHead(answer.status, answer.headers);
      return true;
    } catch (error) {
      // A header that Node refuses: thrown from here it would end the host's process.
      fail(error);
      return false;
    }
  };

  source.on("data", (chunk: Uint8Array) => {
    if (over) return;
    if (sent + chunk.byteLength > size) return fail(new Error(`a blob of ${size} bytes gave more`));
    if (sent === 0 && !begin()) return;
    sent += chunk.byteLength;
    report.sent(chunk.byteLength);
    if (response.write(chunk) || pacing.taken()) return output.moved(chunk.byteLength);
    source.pause();
    output.waits(chunk.byteLength);
    pacing.waits();
  });
  source.on("end", () => {
    if (over) return;
    if (sent !== size) return fail(new Error(`a blob of ${size} bytes gave ${sent}`));
    if (sent === 0 && !begin()) return;
    over = true;
    response.end();
    output.last(0);
  });
  source.on("error", fail);
  source.on("close", () => fail(new Error("the blob's source closed early")));
  response.on("drain", resume);
  response.once("close", () => {
    over = true;
    source.destroy();
  });
}

/** So many turns of the event loop a stream of HTTP/2 takes for a piece whose client reads, at most. */
const patience = 8;

interface PacingParts {
  readonly source: Readable;
  readonly response: ServerResponse;
  readonly output: Output;
  /** What the transfer holds in memory. */
  readonly lease: ByteLease | undefined;
}

/**
 * How much is read at once for a client. One that takes nothing holds no more than a small piece: what was read together with that is dropped as soon as
 * the client has to be waited for. One that was waited for and then went on reads, so for it pieces grow.
 */
class Pacing {
  readonly #o: PacingParts;
  #piece = smallRead;
  #atOnce = largeRead;
  #waiting = false;
  #heldUp = false;
  /** Counts the pieces, so that a look at one that has left long ago sees that. */
  #turn = 0;

  constructor(o: PacingParts) {
    this.#o = o;
    withReadSize(o.source, smallRead, largeRead);
  }

  /**
   * Whether the system has taken all that was handed over. Then there is nothing to wait for, though Node asks for it after each piece: that would cost three rounds
   * of callbacks for each.
   */
  taken(): boolean {
    const { response, output } = this.#o;
    const { socket } = response;
    if (output.unsent() === "unknown" || !socket) return false;
    // Node gathers what is written in one turn.
    socket.uncork();
    return response.writableLength === 0;
  }

  /** A piece was handed over, and its client is waited for. */
  waits(): void {
    this.#waiting = true;
    this.#look(++this.#turn, patience);
  }

  /** The piece has left. */
  goOn(): void {
    this.#waiting = false;
    if (!this.#heldUp) return;
    this.#heldUp = false;
    const { source, output, lease } = this.#o;
    if (output.unsent() === "unknown") {
      this.#atOnce = Math.max(smallRead, this.#atOnce / 2);
    } else {
      const larger = Math.min(this.#piece * 2, largeRead);
      if (larger > this.#piece && lease?.tryGrow(larger - this.#piece)) this.#piece = larger;
    }
    withReadSize(source, this.#piece, this.#atOnce);
  }

  #look(turn: number, patience: number): void {
    if (!this.#waiting || turn !== this.#turn) return;
    const { source, output } = this.#o;
    const unsent = output.unsent();
    if (unsent === 0 || unsent === "queued") return;
    if (unsent === "unknown" && patience > 0) {
      setImmediate(() => this.#look(turn, patience - 1));
      return;
    }
    this.#heldUp = true;
    withReadSize(source, this.#piece);
  }
}
