/** What there is to report, in order; beyond the limit it is only counted. */
export class BoundedList<T> {
  readonly kept: T[] = [];
  readonly #limit: number;
  #count = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** All that were added. */
  get count(): number {
    return this.#count;
  }

  get omitted(): number {
    return this.#count - this.kept.length;
  }

  add(entry: T): void {
    this.#count++;
    if (this.kept.length < this.#limit) this.kept.push(entry);
  }
}
