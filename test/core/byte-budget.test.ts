import { expect, test, vi } from "vitest";
import { ByteBudget } from "../../src/core/byte-budget.js";
import { fakeClock } from "../../src/testing/fake-clock.js";

const waiter = () => new AbortController();

test("what is released is free at once, however often", () => {
  const budget = new ByteBudget(100, fakeClock());
  const lease = budget.lease("a");
  expect([lease.tryTake(30), lease.tryTake(20), lease.tryTake(1)]).toEqual([true, true, false]);
  expect(budget.held).toBe(50);
  lease.release();
  lease.release();
  expect(budget.held).toBe(0);
  expect(lease.tryTake(1)).toBe(false);
});

test("one holder gets half, all together the whole", () => {
  const budget = new ByteBudget(100, fakeClock());
  expect(budget.lease("a").tryTake(50)).toBe(true);
  expect(budget.lease("a").tryTake(1)).toBe(false);
  expect(budget.lease("b").tryTake(50)).toBe(true);
  expect(budget.lease("c").tryTake(1)).toBe(false);
});

test("what is larger than anybody's part counts as that part", () => {
  const budget = new ByteBudget(100, fakeClock());
  expect(budget.lease("a").tryTake(500)).toBe(true);
  expect(budget.held).toBe(50);
});

test("what one can do without leaves some for those who have nothing yet", () => {
  const budget = new ByteBudget(100, fakeClock());
  const lease = budget.lease("a");
  expect([lease.tryGrow(25), lease.tryGrow(1), lease.tryTake(25)]).toEqual([true, false, true]);
});

test("holders that wait take turns; a large wish is not passed for ever", async () => {
  const budget = new ByteBudget(100, fakeClock());
  const first = budget.lease("a");
  const second = budget.lease("b");
  expect([first.tryTake(50), second.tryTake(50)]).toEqual([true, true]);
  const order: string[] = [];
  for (const [holder, bytes] of [
    ["c", 40],
    ["c", 10],
    ["d", 50],
  ] as const) {
    void budget
      .lease(holder)
      .take(bytes, waiter())
      .then(() => order.push(`${holder} ${bytes}`));
  }
  first.release();
  // It would fit, and "d" would wait for ever.
  expect(budget.lease("e").tryTake(10)).toBe(false);
  await vi.waitFor(() => expect(order).toEqual(["c 40"]));
  second.release();
  await vi.waitFor(() => expect(order).toEqual(["c 40", "d 50", "c 10"]));
});

test("those who wait for too long are refused one by one, so that what one gives back is the next one's", async () => {
  const clock = fakeClock();
  const budget = new ByteBudget(100, clock);
  const leases = [1, 2, 3].map(() => budget.lease("a"));
  const outcomes: string[] = [];
  for (const lease of leases) expect(lease.tryTake(15)).toBe(true);
  for (const [index, lease] of leases.entries()) {
    lease.take(15, waiter()).then(
      () => outcomes.push(`${index} goes on`),
      (error) => {
        outcomes.push(`${index} ${error.code}`);
        lease.release();
      },
    );
  }
  await clock.advance(10_000);
  await vi.waitFor(() => expect(outcomes).toEqual(["0 TOOMANYREQUESTS", "1 goes on"]));
  expect(budget.held).toBe(45);
});

test("who leaves while waiting holds nothing", async () => {
  const budget = new ByteBudget(100, fakeClock());
  const full = budget.lease("a");
  full.tryTake(50);
  const leaving = new AbortController();
  const lease = budget.lease("a");
  const waiting = lease.take(10, leaving);
  leaving.abort(new Error("left"));
  await expect(waiting).rejects.toThrow("left");
  const late = budget.lease("a");
  const admitted = late.take(10, waiter());
  late.release();
  full.release();
  await admitted;
  expect(budget.held).toBe(0);
});
