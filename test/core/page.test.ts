import { expect, test } from "vitest";
import { firstOf } from "../../src/core/page.js";

test("a page of a folder with 400,000 names takes memory for the page", { timeout: 60_000 }, async () => {
  const filler = "x".repeat(200);
  const count = 400_000;
  let most = 0;
  const before = process.memoryUsage().heapUsed;
  async function* names() {
    for (let index = 0; index < count; index++) {
      // Every name anew, and in no order: 7919 has no divisor in common with the count.
      yield { name: Buffer.from(`${String((index * 7919) % count).padStart(7, "0")}${filler}`).toString() };
      if (index % 10_000 === 0) most = Math.max(most, process.memoryUsage().heapUsed);
    }
  }
  const first = await firstOf(names(), { after: "0000099", limit: 1000 }, ({ name }) => name);
  expect(first.map((name) => Number(name.slice(0, 7)))).toEqual(Array.from({ length: 1000 }, (_, index) => 99 + index));
  expect((most - before) / 1e6).toBeLessThan(50);
});
