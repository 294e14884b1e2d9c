import { createHash } from "node:crypto";

const initialSlots = 1024;

/**
 * How often each of many texts was added, in some 25 bytes a text at most: hashes of 48 bits stand for the texts. Of a million, one in 300 million others is taken
 * for one of them.
 */
export class DigestCounts {
  /** Open addressing; 0 is free. What was deleted keeps its slot with a count of 0. */
  #hashes = new Float64Array(initialSlots);
  #counts = new Uint32Array(initialSlots);
  #used = 0;
  #size = 0;

  /** Texts whose count is not 0. */
  get size(): number {
    return this.#size;
  }

  add(text: string): void {
    if (this.#used * 2 >= this.#hashes.length) this.#grow();
    const hash = hashOf(text);
    const slot = this.#slot(hash);
    if (this.#hashes[slot] === 0) this.#used++;
    this.#hashes[slot] = hash;
    const count = this.#counts[slot] ?? 0;
    if (count === 0) this.#size++;
    this.#counts[slot] = count + 1;
  }

  count(text: string): number {
    return this.#counts[this.#slot(hashOf(text))] ?? 0;
  }

  delete(text: string): void {
    const slot = this.#slot(hashOf(text));
    if (this.#counts[slot] === 0) return;
    this.#counts[slot] = 0;
    this.#size--;
  }

  #slot(hash: number): number {
    const slots = this.#hashes.length;
    let slot = hash % slots;
    while (this.#hashes[slot] !== 0 && this.#hashes[slot] !== hash) slot = (slot + 1) % slots;
    return slot;
  }

  #grow(): void {
    const [hashes, counts] = [this.#hashes, this.#counts];
    this.#hashes = new Float64Array(hashes.length * 2);
    this.#counts = new Uint32Array(hashes.length * 2);
    this.#used = 0;
    for (const [at, hash] of hashes.entries()) {
      const count = counts[at] ?? 0;
      if (count === 0) continue;
      const slot = this.#slot(hash);
      this.#hashes[slot] = hash;
      this.#counts[slot] = count;
      this.#used++;
    }
  }
}

function hashOf(text: string): number {
  return createHash("sha256").update(text).digest().readUIntBE(0, 6) + 1;
}
