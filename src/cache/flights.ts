/**
 * Questions in progress, by key: whoever asks meanwhile gets the same answer. They belong to no caller: the first to ask may leave, the others still want
 * the answer.
 */
export class Flights<T> {
  readonly #running = new Map<string, Promise<T>>();

  has(key: string): boolean {
    return this.#running.has(key);
  }

  join(key: string, ask: () => Promise<T>): Promise<T> {
    const running = this.#running.get(key);
    if (running) return running;
    const flight = ask().finally(() => this.#running.delete(key));
    this.#running.set(key, flight);
    return flight;
  }

  /** Until what runs now is over, whatever comes of it: for someone who wants an answer to a question asked later than now. */
  async over(key: string): Promise<void> {
    await this.#running.get(key)?.catch(() => {});
  }
}
