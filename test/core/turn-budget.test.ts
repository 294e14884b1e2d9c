import { expect, test } from "vitest";
import { spendTurn, TurnBudget, unitsPerTurn } from "../../src/core/turn-budget.js";

/** A budget whose turns end when the test says so. */
function budget() {
  const scheduled: (() => void)[] = [];
  const turns: number[] = [];
  const one = new TurnBudget({ schedule: (run) => scheduled.push(run), ended: (units) => turns.push(units) });
  const nextTurn = async () => {
    scheduled.shift()?.();
    for (let step = 0; step < 100; step++) await Promise.resolve();
  };
  return { one, turns, scheduled, nextTurn };
}

test("work within one turn's budget waits for nothing", () => {
  const { one } = budget();
  for (let unit = 0; unit < unitsPerTurn; unit++) expect(one.spend()).toBeUndefined();
  expect(one.spend()).toBeInstanceOf(Promise);
});

test.each([1, 7, 100])("a loop of %i units a step never does more in a turn than the budget and one step", async (units) => {
  const { one, turns, scheduled, nextTurn } = budget();
  const steps = 5 * unitsPerTurn;
  let done = 0;
  const loop = (async () => {
    for (; done < steps; done++) await one.spend(units);
  })();
  while (done < steps) await nextTurn();
  await loop;
  while (scheduled.length > 0) await nextTurn();
  expect(Math.max(...turns)).toBeLessThan(unitsPerTurn + units);
  expect(turns.reduce((sum, turn) => sum + turn, 0)).toBe(steps * units);
});

test("who waits longer goes on first, and nobody overtakes", async () => {
  const { one, nextTurn } = budget();
  one.spend(unitsPerTurn);
  const order: number[] = [];
  const waiting = [0, 1, 2].map(async (number) => {
    await one.spend(unitsPerTurn);
    order.push(number);
  });
  await nextTurn();
  expect(order).toEqual([0]);
  expect(one.spend()).toBeInstanceOf(Promise);
  await nextTurn();
  await nextTurn();
  await Promise.all(waiting);
  expect(order).toEqual([0, 1, 2]);
});

test("what turned out to cost more than was said holds up those that the same turn let through", async () => {
  const { one, turns, scheduled, nextTurn } = budget();
  let done = 0;
  const reads = Array.from({ length: 10 }, () =>
    one.run(1, () => {
      one.charge(unitsPerTurn / 2);
      return ++done;
    }),
  );
  while (done < 10) await nextTurn();
  expect(await Promise.all(reads)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  while (scheduled.length > 0) await nextTurn();
  expect(Math.max(...turns)).toBeLessThan(2 * unitsPerTurn);
  await expect(
    (async () =>
      one.run(1, () => {
        throw new Error("broken");
      }))(),
  ).rejects.toThrow("broken");
});

test("a piece of work larger than a turn is let through", async () => {
  const { one, nextTurn } = budget();
  one.spend(unitsPerTurn);
  let done = false;
  void one.spend(10 * unitsPerTurn)?.then(() => {
    done = true;
  });
  await nextTurn();
  expect(done).toBe(true);
});

test("timers run while a loop spends more than a turn", async () => {
  let ticked = false;
  setTimeout(() => {
    ticked = true;
  }, 1);
  // Without a budget this would never end: each step would be a microtask.
  while (!ticked) await spendTurn(20);
});
