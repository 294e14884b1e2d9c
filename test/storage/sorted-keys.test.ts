import { expect, test } from "vitest";
import { SortedKeys } from "../../src/storage/memory/sorted-keys.js";

test("keeps thousands of keys in order through insertions and removals at random", () => {
  const keys = new SortedKeys();
  const model = new Set<string>();
  let seed = 42;
  const random = (limit: number) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return seed % limit;
  };
  for (let step = 0; step < 30_000; step++) {
    const key = `k${random(8000)}`;
    if (random(10) < 7) {
      keys.add(key);
      model.add(key);
    } else {
      keys.delete(key);
      model.delete(key);
    }
  }
  const sorted = [...model].sort();
  expect(keys.slice("", undefined, 100_000)).toEqual(sorted);
  expect(keys.slice("k3", "k5", 100_000)).toEqual(sorted.filter((key) => key >= "k3" && key < "k5"));
  expect(keys.slice("k3", undefined, 7)).toEqual(sorted.filter((key) => key >= "k3").slice(0, 7));
  for (const key of sorted) keys.delete(key);
  expect(keys.slice("", undefined, 10)).toEqual([]);
});
