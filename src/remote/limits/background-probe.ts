import type { Clock } from "../../core/clock.js";

export interface BackgroundProbeParts {
  readonly clock: Clock;
  /** Whether it is still to be found out. */
  isWanted(): boolean;
  /** Whether the upstream may be asked now: not while it wants to be left alone. */
  mayAsk(): boolean;
  /** Whether the upstream answers. Never rejects. */
  ask(signal: AbortSignal): Promise<boolean>;
  /** It does. */
  answered(): void;
}

/** In milliseconds, from one question to the next: an upstream that answers again is seen within ten seconds. */
const every = 9500;
/** In milliseconds. A question to which no answer came by then is none; less than the time to the next one. */
const patience = 9000;
/** In milliseconds. So long after the last request somebody may still come back. */
const demandLasts = 5 * 60_000;

/**
 * Finds out whether an upstream answers again that requests are kept from. No request of a client is spent on that, and none waits for longer than it must. It stops when nobody has
 * wanted anything for a while.
 */
export class BackgroundProbe {
  readonly #parts: BackgroundProbeParts;
  readonly #closed = new AbortController();
  #wantedAt = 0;
  #running = false;
  #nextAt = 0;

  constructor(parts: BackgroundProbeParts) {
    this.#parts = parts;
  }

  /** Milliseconds until the next question; `undefined` when none is to come. */
  get wait(): number | undefined {
    return this.#running ? Math.max(0, this.#nextAt - this.#parts.clock.elapsed()) : undefined;
  }

  /** Somebody wants something of the upstream. */
  wanted(): void {
    this.#wantedAt = this.#parts.clock.elapsed();
    if (this.#running || this.#closed.signal.aborted || !this.#parts.isWanted()) return;
    this.#running = true;
    this.#run()
      .catch(() => {})
      .finally(() => {
        this.#running = false;
      });
  }

  close(): void {
    this.#closed.abort();
  }

  async #run(): Promise<void> {
    const { clock, isWanted, mayAsk, ask, answered } = this.#parts;
    const { signal } = this.#closed;
    while (isWanted() && clock.elapsed() - this.#wantedAt < demandLasts) {
      this.#nextAt = clock.elapsed() + every;
      await clock.sleep(every, signal);
      if (!isWanted() || !mayAsk()) continue;
      if (await ask(AbortSignal.any([signal, AbortSignal.timeout(patience)]))) answered();
    }
  }
}
