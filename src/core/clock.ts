import { onAbort } from "./on-abort.js";

/** Time as the library sees it: tests pass a fake one. */
export interface Clock {
  /** Milliseconds since the epoch: for what is stored or told. A machine's clock may be set, also back. */
  now(): number;
  /** Milliseconds since some moment, never fewer than before: for durations, rates and what is remembered in memory. */
  elapsed(): number;
  /** Resolves after `ms`; rejects with the signal's reason when it aborts. A sleep never keeps the process alive. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  now: Date.now,
  elapsed: () => performance.now(),
  sleep(ms, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      let stop = () => {};
      const timer = setTimeout(() => {
        stop();
        resolve();
      }, ms);
      timer.unref();
      if (!signal) return;
      stop = onAbort(signal, () => {
        clearTimeout(timer);
        reject(signal.reason);
      });
    });
  },
};

/**
 * Sleeps for somebody who waits for what comes after. Unlike a sleep of the clock it keeps the process alive: a script that does nothing else meanwhile, or a
 * start that waits for a database, would end in the middle without a word.
 */
export async function pause(clock: Clock, milliseconds: number, signal?: AbortSignal): Promise<void> {
  const alive = setInterval(() => {}, 60_000);
  try {
    await clock.sleep(milliseconds, signal);
  } finally {
    clearInterval(alive);
  }
}
