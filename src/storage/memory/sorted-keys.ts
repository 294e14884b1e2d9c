// Small enough that an insertion's move of elements is cheap, large enough that a million keys need some two thousand buckets.
const bucketLimit = 1024;

/** The index of the first element that is not less than `key`. */
function lowerBound(sorted: readonly string[], key: string): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] as string) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** A set of texts in ASCII order: two levels of sorted arrays, so that a million keys cost no long moves and no sorting at read time. */
export class SortedKeys {
  /** Never empty buckets, in order. `#firsts` holds the first key of each, for the search over buckets. */
  #buckets: string[][] = [];
  #firsts: string[] = [];

  add(key: string): void {
    const index = this.#bucketFor(key);
    const bucket = this.#buckets[index];
    if (!bucket) {
      this.#buckets.push([key]);
      this.#firsts.push(key);
      return;
    }
    const at = lowerBound(bucket, key);
    if (bucket[at] === key) return;
    bucket.splice(at, 0, key);
    if (at === 0) this.#firsts[index] = key;
    if (bucket.length > bucketLimit) this.#split(index, bucket);
  }

  delete(key: string): void {
    const index = this.#bucketFor(key);
    const bucket = this.#buckets[index];
    if (!bucket) return;
    const at = lowerBound(bucket, key);
    if (bucket[at] !== key) return;
    bucket.splice(at, 1);
    const first = bucket[0];
    if (first !== undefined) {
      this.#firsts[index] = first;
    } else {
      this.#buckets.splice(index, 1);
      this.#firsts.splice(index, 1);
    }
  }

  /** Up to `limit` keys with `from <= key < to`, in order. */
  slice(from: string, to: string | undefined, limit: number): string[] {
    const found: string[] = [];
    let index = this.#bucketFor(from);
    let at = lowerBound(this.#buckets[index] ?? [], from);
    for (; index < this.#buckets.length; index++, at = 0) {
      const bucket = this.#buckets[index] ?? [];
      for (; at < bucket.length; at++) {
        const key = bucket[at] as string;
        if (found.length >= limit || (to !== undefined && key >= to)) return found;
        found.push(key);
      }
    }
    return found;
  }

  /** The bucket that holds `key`, or would: the last one whose first key is not greater. */
  #bucketFor(key: string): number {
    const index = lowerBound(this.#firsts, key);
    return this.#firsts[index] === key ? index : Math.max(0, index - 1);
  }

  #split(index: number, bucket: string[]): void {
    const upper = bucket.splice(bucket.length >>> 1);
    this.#buckets.splice(index + 1, 0, upper);
    this.#firsts.splice(index + 1, 0, upper[0] as string);
  }
}
