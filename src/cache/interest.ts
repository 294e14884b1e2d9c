import type { Digest } from "../core/digest.js";

/** Who waits for a blob without reading it yet: clients that have no answer so far, and work in the background. */
export class Interest {
  readonly #waiting = new Map<Digest, number>();

  /** Answers its end, to be called once. */
  begin(digest: Digest): () => void {
    this.#add(digest, 1);
    return () => this.#add(digest, -1);
  }

  has(digest: Digest): boolean {
    return this.#waiting.has(digest);
  }

  #add(digest: Digest, more: number): void {
    const waiting = (this.#waiting.get(digest) ?? 0) + more;
    if (waiting > 0) this.#waiting.set(digest, waiting);
    else this.#waiting.delete(digest);
  }
}
