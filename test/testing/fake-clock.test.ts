import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";

test("time stands still until it is advanced", async () => {
  const clock = fakeClock(1000);
  expect(clock.now()).toBe(1000);
  await clock.advance(500);
  expect(clock.now()).toBe(1500);
});

test("sleeps end in order of time, each at its own", async () => {
  const clock = fakeClock(0);
  const woken: [string, number][] = [];
  const sleeper = (name: string, ms: number) => clock.sleep(ms).then(() => woken.push([name, clock.now()]));
  sleeper("c", 300);
  sleeper("a", 100);
  sleeper("b", 200);
  sleeper("late", 1000);
  await clock.advance(500);
  expect(woken).toEqual([
    ["a", 100],
    ["b", 200],
    ["c", 300],
  ]);
  expect(clock.now()).toBe(500);
});

test("a sleep begun by one that ended falls into the same advance", async () => {
  const clock = fakeClock(0);
  let ticks = 0;
  (async () => {
    for (;;) {
      await clock.sleep(10);
      ticks += 1;
    }
  })();
  await clock.advance(100);
  expect(ticks).toBe(10);
});

test("a sleep of nothing ends at once", async () => {
  await fakeClock().sleep(0);
});

test("a signal ends a sleep with its reason, before or during it", async () => {
  const clock = fakeClock();
  await expect(clock.sleep(10, AbortSignal.abort(new Error("before")))).rejects.toThrow("before");
  const controller = new AbortController();
  const sleeping = clock.sleep(10, controller.signal);
  controller.abort(new Error("during"));
  await expect(sleeping).rejects.toThrow("during");
  await clock.advance(100);
});
