import { expect, test } from "vitest";
import { DigestCounts } from "../../src/maintenance/digest-counts.js";

test("a tally counts as a map does, through growth and deletions", () => {
  const tally = new DigestCounts();
  const map = new Map<string, number>();
  let state = 1;
  for (let turn = 0; turn < 50_000; turn++) {
    state = (state * 48_271) % 2_147_483_647;
    const text = `text ${state % 5000}`;
    if (state % 7 === 0) {
      tally.delete(text);
      map.delete(text);
    } else {
      tally.add(text);
      map.set(text, (map.get(text) ?? 0) + 1);
    }
  }
  expect(tally.size).toBe(map.size);
  for (let text = 0; text < 6000; text++) expect(tally.count(`text ${text}`)).toBe(map.get(`text ${text}`) ?? 0);
});
