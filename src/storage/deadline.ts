import type { Clock } from "../core/clock.js";
import { onAbort } from "../core/on-abort.js";

/** A store has taken a request and not answered it in time. Named as the SDKs of stores name their own. */
export class DeadlineError extends Error {
  override readonly name = "TimeoutError";

  constructor(what: string, milliseconds: number) {
    super(`timeout: ${what} was not answered within ${milliseconds / 1000} s`);
  }
}

/**
 * Waits for an answer, and no longer: clients of stores wait for ever by default, or for as long as the host has set. The work is told by its signal to stop, and is not waited for.
 *
 * @param o.what for the error.
 * @param o.within milliseconds.
 * @param o.signal the caller's, passed on to the work.
 * @throws DeadlineError
 */
export async function withinDeadline<T>(
  o: { readonly clock: Clock; readonly what: string; readonly within: number; readonly signal?: AbortSignal | undefined },
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  o.signal?.throwIfAborted();
  const stop = new AbortController();
  const answered = new AbortController();
  const unlisten = o.signal ? onAbort(o.signal, () => stop.abort(o.signal?.reason)) : () => {};
  const late = o.clock.sleep(o.within, answered.signal).then(() => {
    const error = new DeadlineError(o.what, o.within);
    stop.abort(error);
    throw error;
  });
  try {
    return await Promise.race([work(stop.signal), late]);
  } finally {
    answered.abort();
    unlisten();
    late.catch(() => {});
  }
}
