import { expect, test } from "vitest";
import { DigestCounts } from "../../src/maintenance/digest-counts.js";

test("texts are counted as in a map of themselves, through additions and deletions", () => {
  const counts = new DigestCounts();
  const map = new Map<string, number>();
  let state = 1;
  for (let turn = 0; turn < 50_000; turn++) {
    state = (state * 48_271) % 2_147_483_647;
    const text = `text ${state % 5000}`;
    if (state % 7 === 0) {
      counts.delete(text);
      map.delete(text);
    } else {
      counts.add(text);
      map.set(text, (map.get(text) ?? 0) + 1);
    }
  }
  expect(counts.size).toBe(map.size);
  for (let text = 0; text < 6000; text++) expect(counts.count(`text ${text}`)).toBe(map.get(`text ${text}`) ?? 0);
});
