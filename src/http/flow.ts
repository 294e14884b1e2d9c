/** How much of what was handed over has not left yet; `"queued"` behind another response of its connection; `"unknown"` to this platform. */
export type Unsent = number | "queued" | "unknown";

export interface FlowLimits {
  /** Milliseconds without a byte; 0 is no limit. */
  readonly idle: number;
  /** Bytes a second; 0 is no limit. */
  readonly minimum: number;
}

/** Over how much waiting the throughput is measured: long enough that a lossy line's pauses even out. In milliseconds. */
const throughputWindow = 30_000;

/** Where nobody can say how much of a write has left, each piece of this size may take as long as a single byte elsewhere. */
const unseenPiece = 64 * 1024;

/**
 * One direction of one transfer: how long its peer lets us wait, and what moves in that time. Time in which nobody waits for the peer does not count:
 * a slow disk or upstream of ours is not the client's fault.
 */
export class Flow {
  /** Called once, when the peer has been too slow. The flow is over by then. */
  readonly stalled: (limit: keyof FlowLimits) => void;
  readonly #now: () => number;
  readonly #unsent: () => Unsent;
  #waitingSince: number | undefined;
  /** When the last sign of life was seen. */
  #quietSince = 0;
  /** How long the peer was waited for in this window, the current waiting left out. */
  #waited = 0;
  #moved = 0;
  /** As much of `#moved` as is known to have left. */
  #through = 0;
  #throughAtWindow = 0;
  #movedAtRest = 0;

  constructor(now: () => number, stalled: (limit: keyof FlowLimits) => void, unsent: () => Unsent = () => 0) {
    this.#now = now;
    this.stalled = stalled;
    this.#unsent = unsent;
  }

  /** From now on it is the peer's turn. */
  waits(): void {
    if (this.#waitingSince !== undefined) return;
    this.#waitingSince = this.#quietSince = this.#now();
  }

  moved(bytes: number): void {
    this.#moved += bytes;
  }

  /** The peer did what was waited for. */
  rests(): void {
    if (this.#waitingSince === undefined) return;
    this.#waited += this.#now() - this.#waitingSince;
    this.#waitingSince = undefined;
    this.#movedAtRest = this.#moved;
  }

  /** Takes out time in which this process did not run, or the clock was set. */
  excuse(milliseconds: number): void {
    if (this.#waitingSince === undefined) return;
    this.#waitingSince += milliseconds;
    this.#quietSince += milliseconds;
  }

  /** The limit that the peer does not keep to, if any. */
  broken(limits: FlowLimits): keyof FlowLimits | undefined {
    if (this.#waitingSince === undefined) return undefined;
    const now = this.#now();
    const unsent = this.#unsent();
    if (unsent === "queued") {
      this.#waitingSince = this.#quietSince = now;
      return undefined;
    }
    if (unsent === "unknown") {
      const pieces = Math.max(1, Math.ceil((this.#moved - this.#movedAtRest) / unseenPiece));
      return limits.idle > 0 && now - this.#quietSince >= limits.idle * pieces ? "idle" : undefined;
    }
    if (this.#moved - unsent > this.#through) {
      this.#through = this.#moved - unsent;
      this.#quietSince = now;
    }
    if (limits.idle > 0 && now - this.#quietSince >= limits.idle) return "idle";
    return this.#tooSlow(now, this.#waitingSince, limits) ? "minimum" : undefined;
  }

  #tooSlow(now: number, waitingSince: number, { idle, minimum }: FlowLimits): boolean {
    const waited = this.#waited + now - waitingSince;
    if (minimum === 0 || waited < throughputWindow) return false;
    const bytes = this.#through - this.#throughAtWindow;
    // A pause is the other limit's to judge; the window goes on until it is over.
    if (bytes === 0 && idle > 0) return false;
    if (bytes * 1000 < minimum * waited) return true;
    this.#throughAtWindow = this.#through;
    this.#waited = 0;
    this.#waitingSince = now;
    return false;
  }
}
