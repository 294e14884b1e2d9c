import { onAbort } from "./on-abort.js";

/** Waits for work that is shared with others: the signal ends the waiting, not the work. @throws the signal's reason. */
export async function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  let stop = () => {};
  const aborted = new Promise<never>((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else stop = onAbort(signal, () => reject(signal.reason));
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    stop();
  }
}

/** Work that is not begun when its signal is aborted already. @throws the signal's reason. */
export function unlessAborted<T>(signal: AbortSignal | undefined, begin: () => Promise<T>): Promise<T> {
  return signal?.aborted ? Promise.reject(signal.reason) : begin();
}
