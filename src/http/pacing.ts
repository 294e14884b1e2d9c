import type { ServerResponse } from "node:http";
import type { Readable } from "node:stream";
import type { ByteLease } from "../core/byte-budget.js";
import { largePiece, paced, smallPiece } from "../core/pace.js";
import type { NodeOutput } from "./node-output.js";

/** So many turns of the event loop a stream of HTTP/2 takes for a piece whose client reads, at most. */
const patience = 8;

interface PacingParts {
  readonly source: Readable;
  readonly response: ServerResponse;
  readonly output: NodeOutput;
  /** What the transfer holds in memory. */
  readonly lease: ByteLease | undefined;
}

/**
 * How much is read at once for a client. One that takes nothing holds no more than a small piece: what was read together with that is dropped as soon as
 * the client has to be waited for. One that was waited for and then went on reads, so for it pieces grow.
 */
export class Pacing {
  readonly #o: PacingParts;
  #piece = smallPiece;
  #atOnce = largePiece;
  #waiting = false;
  #heldUp = false;
  /** Counts the pieces, so that a look at one that has left long ago sees that. */
  #turn = 0;

  constructor(o: PacingParts) {
    this.#o = o;
    paced(o.source, smallPiece, largePiece);
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
      this.#atOnce = Math.max(smallPiece, this.#atOnce / 2);
    } else {
      const larger = Math.min(this.#piece * 2, largePiece);
      if (larger > this.#piece && lease?.tryGrow(larger - this.#piece)) this.#piece = larger;
    }
    paced(source, this.#piece, this.#atOnce);
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
    paced(source, this.#piece);
  }
}
