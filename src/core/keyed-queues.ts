/** Work that goes one after the other where it has a key in common, in this process: it would only make each other's conditions fail. */
export class KeyedQueues {
  /** The end of the queue of each key that somebody works on. */
  readonly #ends = new Map<string, Promise<unknown>>();

  /** Works once all that came before under this key is over, whatever came of it. */
  async run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const turn = (this.#ends.get(key) ?? Promise.resolve()).then(work);
    const settled = turn.catch(() => {});
    this.#ends.set(key, settled);
    try {
      return await turn;
    } finally {
      if (this.#ends.get(key) === settled) this.#ends.delete(key);
    }
  }

  /** As `run`, under several keys. They are waited for in their order, so that no two wait for each other. */
  runAll<T>(keys: readonly string[], work: () => Promise<T>): Promise<T> {
    const inOrder = [...new Set(keys)].sort();
    return inOrder.reduceRight<() => Promise<T>>((inner, key) => () => this.run(key, inner), work)();
  }
}
