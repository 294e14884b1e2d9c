import type { Clock } from "../core/clock.js";

/** Time that moves only when a test advances it. */
export interface FakeClock extends Clock {
  /**
   * Moves time on. Sleeps that end within it are woken in order of their time, each at its own `now()`; what they start may sleep again and is
   * woken within the same advance.
   */
  advance(ms: number): Promise<void>;
  /** Sets what `now` tells, as an operator or NTP does: no time passes. */
  set(now: number): void;
}

interface Sleeper {
  readonly until: number;
  wake(): void;
}

/**
 * A clock for tests: hand it to the factories under test and advance it.
 *
 * @param start milliseconds since the epoch; the beginning of 2026 by default.
 *
 * @example
 * ```ts
 * import { fakeClock } from "oci-manifold/testing";
 * const clock = fakeClock();
 * const sleeping = clock.sleep(60_000);
 * await clock.advance(60_000);
 * await sleeping;
 * ```
 */
export function fakeClock(start: number = Date.UTC(2026, 0, 1)): FakeClock {
  let now = 0;
  let epoch = start;
  const sleepers = new Set<Sleeper>();

  const next = (limit: number): Sleeper | undefined => {
    let earliest: Sleeper | undefined;
    for (const sleeper of sleepers) {
      if (sleeper.until <= limit && (!earliest || sleeper.until < earliest.until)) earliest = sleeper;
    }
    return earliest;
  };

  return {
    now: () => epoch + now,
    elapsed: () => now,
    set(time) {
      epoch = time - now;
    },

    sleep(ms, signal) {
      return new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason);
        if (ms <= 0) return resolve();
        const abort = () => {
          sleepers.delete(sleeper);
          reject(signal?.reason);
        };
        const sleeper: Sleeper = {
          until: now + ms,
          wake() {
            sleepers.delete(sleeper);
            signal?.removeEventListener("abort", abort);
            resolve();
          },
        };
        sleepers.add(sleeper);
        signal?.addEventListener("abort", abort, { once: true });
      });
    },

    async advance(ms) {
      const target = now + ms;
      await settled();
      for (let sleeper = next(target); sleeper; sleeper = next(target)) {
        now = Math.max(now, sleeper.until);
        sleeper.wake();
        await settled();
      }
      now = Math.max(now, target);
      await settled();
    },
  };
}

/** Lets everything run that only waits for promises. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
