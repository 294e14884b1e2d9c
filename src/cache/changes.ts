/** Tells any number of waiters that something has changed. */
export class Changes {
  /** Resolves at the next change. */
  next: Promise<void>;
  #tell: () => void = () => {};

  constructor() {
    this.next = this.#wait();
  }

  tell(): void {
    const tell = this.#tell;
    this.next = this.#wait();
    tell();
  }

  #wait(): Promise<void> {
    return new Promise((resolve) => {
      this.#tell = resolve;
    });
  }
}
