/**
 * How fast clients must be. `FlowGuard` breaks off those that stop, or nearly stop, in the middle of a request's body or of a response. It follows each direction of each transfer
 * by a `Flow`, which counts only the time in which it is the client's turn.
 */
import type { Clock } from "../core/clock.js";
import { RegistryError } from "../core/errors.js";
import { type Duration, type Size, toBytes, toMilliseconds } from "../core/units.js";

export interface FlowGuardOptions {
  /**
   * How long a client may owe us progress without a byte moving: of a body that it sends, or of a response that it reads. Default `"60s"`; `"0s"` is no
   * limit.
   */
  readonly idleTimeout?: Duration;
  /** Bytes a second that a client must send or read, over 30 seconds of waiting for it. Default `"1KiB"`; `"0B"` is no limit. */
  readonly minimumThroughput?: Size;
}

/** Longer than any pause of a client that still works on it: a TCP retransmission backs off for up to a minute. */
const defaultIdleTimeout: Duration = "60s";
/** No line in use is slower; at this rate a peer holds a connection for a day to get 84 MiB. */
const defaultMinimumThroughput: Size = "1KiB";

/** How often running transfers are looked at, at most, in milliseconds. A client is broken off late by no more than this. */
const longestInterval = 5000;
const shortestInterval = 10;

/**
 * Breaks off clients that stop, or nearly stop, in the middle of a transfer; a limit on its whole time would hit the large layers. There is one timer
 * for all transfers, and none while no client is waited for.
 */
export class FlowGuard {
  readonly #clock: Clock;
  readonly #now: () => number;
  readonly #limits: FlowLimits;
  readonly #interval: number;
  readonly #complaints: { readonly idle: string; readonly minimum: string };
  readonly #flows = new Set<Flow>();
  #sweeping = false;

  /** @throws RegistryError UNKNOWN for what is no duration or size. */
  constructor(options: FlowGuardOptions, clock: Clock) {
    const { idleTimeout = defaultIdleTimeout, minimumThroughput = defaultMinimumThroughput } = options;
    this.#clock = clock;
    this.#now = () => clock.elapsed();
    this.#limits = { idle: toMilliseconds(idleTimeout), minimum: toBytes(minimumThroughput) };
    this.#complaints = { idle: `no byte came for ${idleTimeout}`, minimum: `fewer bytes came than ${minimumThroughput} a second` };
    this.#interval = this.#limits.idle > 0 ? Math.min(longestInterval, Math.max(shortestInterval, this.#limits.idle / 4)) : longestInterval;
  }

  /** A body that the client sends. When it is too slow, the next chunk is a 408; what the handlers do between two chunks takes none of its time. */
  incoming(source: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
    return this.#off ? source : { [Symbol.asyncIterator]: () => this.#guarded(source[Symbol.asyncIterator]()) };
  }

  /**
   * A response that the client reads. The flow must be ended.
   *
   * @param stalled breaks the response off.
   */
  outgoing(unsent: () => Unsent, stalled: () => void): Flow {
    return this.#watched(new Flow(this.#now, stalled, unsent));
  }

  end(flow: Flow): void {
    this.#flows.delete(flow);
  }

  get #off(): boolean {
    return this.#limits.idle === 0 && this.#limits.minimum === 0;
  }

  #watched(flow: Flow): Flow {
    if (this.#off) return flow;
    this.#flows.add(flow);
    if (!this.#sweeping) {
      this.#sweeping = true;
      // Only a clock of the host's can fail; the next transfer tries again.
      this.#sweep().catch(() => {
        this.#sweeping = false;
      });
    }
    return flow;
  }

  #guarded(source: AsyncIterator<Uint8Array>): AsyncIterator<Uint8Array> {
    let failure: RegistryError | undefined;
    let reject = (_: unknown) => {};
    const abandon = () => void source.return?.().then(undefined, () => {});
    let flow: Flow | undefined;
    const begun = () =>
      this.#watched(
        new Flow(this.#now, (limit) => {
          failure = new RegistryError(
            "UNAVAILABLE",
            `${this.#complaints[limit]}: send the request again, or go on with the upload from the offset that a GET of its location tells`,
            { status: 408 },
          );
          reject(failure);
          abandon();
        }),
      );
    const over = () => {
      if (flow) this.end(flow);
    };
    return {
      next: () =>
        new Promise((resolve, refuse) => {
          if (failure) return refuse(failure);
          reject = refuse;
          flow ??= begun();
          const current = flow;
          current.waits();
          source.next().then(
            (step) => {
              if (step.done) over();
              else current.moved(step.value.byteLength);
              current.rests();
              resolve(step);
            },
            (error) => {
              over();
              refuse(error);
            },
          );
        }),
      return: async () => {
        over();
        // After a stall the source still waits for the client.
        if (!failure) await source.return?.();
        return { done: true, value: undefined };
      },
    };
  }

  async #sweep(): Promise<void> {
    while (this.#flows.size > 0) {
      const due = this.#now() + this.#interval;
      await this.#clock.sleep(this.#interval);
      const late = this.#now() - due;
      for (const flow of this.#flows) {
        // The machine was asleep, the process blocked or the clock set: what the client sent meanwhile was not read yet.
        if (Math.abs(late) > this.#interval) flow.excuse(late);
        const limit = flow.broken(this.#limits);
        if (!limit) continue;
        this.end(flow);
        flow.stalled(limit);
      }
    }
    this.#sweeping = false;
  }
}

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

/** Where nobody can say how much of a write has left, each piece of this size may take as long as one byte does where that is known. */
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
    // A pause is for the other limit; the window goes on until the pause is over.
    if (bytes === 0 && idle > 0) return false;
    if (bytes * 1000 < minimum * waited) return true;
    this.#throughAtWindow = this.#through;
    this.#waited = 0;
    this.#waitingSince = now;
    return false;
  }
}
