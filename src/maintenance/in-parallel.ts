import { RegistryError } from "../core/errors.js";

/**
 * Works on all items, so many at a time, and reads no further ahead. The first failure ends the others, and nothing runs any more when this rejects: what they read
 * from can be closed.
 * @throws RegistryError UNKNOWN for a `concurrency` that is no whole number from 1; the signal's reason; the first failure.
 */
export async function inParallel<T>(
  items: Iterable<T> | AsyncIterable<T>,
  { concurrency, signal }: { readonly concurrency: number; readonly signal?: AbortSignal | undefined },
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  checkConcurrency(concurrency);
  const failing = new AbortController();
  const ended = signal ? AbortSignal.any([signal, failing.signal]) : failing.signal;
  const failures: unknown[] = [];
  const fail = (error: unknown) => {
    failures.push(error);
    failing.abort(error);
  };
  const running = new Set<Promise<void>>();
  try {
    for await (const item of items) {
      if (ended.aborted) break;
      const run: Promise<void> = work(item, ended)
        .catch(fail)
        .finally(() => running.delete(run));
      running.add(run);
      while (running.size >= concurrency) await Promise.race(running);
      if (ended.aborted) break;
    }
  } catch (error) {
    fail(error);
  }
  await Promise.all(running);
  signal?.throwIfAborted();
  if (failures.length > 0) throw failures[0];
}

/** @throws RegistryError UNKNOWN when it is no whole number from 1. As many as there are may be `Infinity`. */
export function checkConcurrency(concurrency: number): void {
  if (concurrency >= 1 && (Number.isInteger(concurrency) || concurrency === Number.POSITIVE_INFINITY)) return;
  throw new RegistryError("UNKNOWN", "concurrency must be a whole number from 1");
}
