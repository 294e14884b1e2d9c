import { RegistryError } from "../core/errors.js";

/**
 * Works on all items, so many at a time. The first failure ends the others, and nothing runs any more when this rejects: what they read from can be closed.
 * @throws RegistryError UNKNOWN for a `concurrency` that is no whole number from 1; the signal's reason; the first failure.
 */
export async function inParallel<T>(
  items: Iterable<T>,
  { concurrency, signal }: { readonly concurrency: number; readonly signal?: AbortSignal },
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  if (!Number.isInteger(concurrency) || concurrency < 1) throw new RegistryError("UNKNOWN", "concurrency must be a whole number from 1");
  const failing = new AbortController();
  const ended = signal ? AbortSignal.any([signal, failing.signal]) : failing.signal;
  const failures: unknown[] = [];
  const rest = items[Symbol.iterator]();
  const worker = async () => {
    try {
      for (let next = rest.next(); !next.done && !ended.aborted; next = rest.next()) await work(next.value, ended);
    } catch (error) {
      failures.push(error);
      failing.abort(error);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
  signal?.throwIfAborted();
  if (failures.length > 0) throw failures[0];
}
