/** Questions in progress, by key: whoever asks meanwhile gets the same answer. A question that is settled is forgotten, whatever came of it. */
export class SingleFlights<T> {
  readonly #running = new Map<string, Promise<T>>();

  /**
   * The answer that is on its way under this key, or else that of `ask`. It belongs to no caller: the first one may leave, and the others still want it. So `ask` must
   * not end with a caller's signal.
   */
  join(key: string, ask: () => Promise<T>): Promise<T> {
    const running = this.#running.get(key);
    if (running) return running;
    const answer = ask().finally(() => this.#running.delete(key));
    this.#running.set(key, answer);
    return answer;
  }
}
