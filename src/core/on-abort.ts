/**
 * Calls a listener once when a signal aborts. However many there are, the signal itself gets one listener: Node warns of a leak from the eleventh on, and hundreds of
 * layers may wait for one caller's signal.
 *
 * @param signal must not be aborted already.
 * @returns a function that takes the listener away. Idempotent.
 */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  const listeners = listenersOf.get(signal) ?? new AbortListeners(signal);
  listenersOf.set(signal, listeners);
  return listeners.add(listener);
}

/** All listeners of one signal. */
class AbortListeners {
  readonly #signal: AbortSignal;
  /** Objects, since the same function may listen twice. */
  readonly #listeners = new Set<{ readonly call: () => void }>();
  readonly #aborted = () => {
    for (const listener of this.#listeners) {
      this.#listeners.delete(listener);
      listener.call();
    }
  };

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  add(call: () => void): () => void {
    const listener = { call };
    if (this.#listeners.size === 0) this.#signal.addEventListener("abort", this.#aborted, { once: true });
    this.#listeners.add(listener);
    return () => {
      // Without a listener the signal can be collected, also one that depends on others.
      if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.#signal.removeEventListener("abort", this.#aborted);
    };
  }
}

const listenersOf = new WeakMap<AbortSignal, AbortListeners>();
