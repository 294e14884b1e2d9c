import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Clock } from "oci-manifold";
import { fakeClock } from "oci-manifold/testing";
import { expect, test, vi } from "vitest";
import { FlowGuard } from "../../src/http/flow.js";

const bytes = (size: number) => Buffer.alloc(size);

async function* after(clock: Clock, pause: number, size: number, times: number): AsyncGenerator<Uint8Array> {
  for (let i = 0; i < times; i++) {
    await clock.sleep(pause);
    yield bytes(size);
  }
}

async function sizeOf(source: AsyncIterable<Uint8Array>): Promise<number> {
  let size = 0;
  for await (const chunk of source) size += chunk.byteLength;
  return size;
}

test("a body that stops is a 408 after the idle limit, and not before", async () => {
  const clock = fakeClock();
  const guarded = new FlowGuard({}, clock).incoming(after(clock, 59_000, 100_000, 3));
  const read = sizeOf(guarded);
  await clock.advance(3 * 59_000);
  expect(await read).toBe(300_000);

  const silent = sizeOf(new FlowGuard({}, clock).incoming(after(clock, 3_600_000, 1, 1))).catch((error: unknown) => error);
  await clock.advance(66_000);
  expect(await silent).toMatchObject({ code: "UNAVAILABLE", status: 408, message: expect.stringContaining("no byte came for 60s") });
});

test("a body that trickles is a 408 after a window; the same rate in larger pieces is not", async () => {
  const clock = fakeClock();
  const trickle = sizeOf(new FlowGuard({}, clock).incoming(after(clock, 1000, 1000, 1000))).catch((error: unknown) => error);
  await clock.advance(36_000);
  expect(await trickle).toMatchObject({ status: 408, message: expect.stringContaining("1KiB a second") });
  const steady = sizeOf(new FlowGuard({}, clock).incoming(after(clock, 1000, 1100, 1000)));
  await clock.advance(1_000_000);
  expect(await steady).toBe(1_100_000);
});

test("time between two chunks that the reader takes is not the client's", async () => {
  const clock = fakeClock();
  let size = 0;
  const slowDisk = (async () => {
    for await (const chunk of new FlowGuard({}, clock).incoming(after(clock, 10, 10, 20))) {
      await clock.sleep(600_000);
      size += chunk.byteLength;
    }
  })();
  await clock.advance(20 * 600_010);
  await slowDisk;
  expect(size).toBe(200);
});

test("0 turns the limits off", async () => {
  const clock = fakeClock();
  const source = after(clock, 3_600_000, 1, 2);
  expect(new FlowGuard({ idleTimeout: "0s", minimumThroughput: "0B" }, clock).incoming(source)).toBe(source);
  const slow = sizeOf(new FlowGuard({ idleTimeout: "2h", minimumThroughput: "0B" }, clock).incoming(source));
  await clock.advance(7_200_000);
  expect(await slow).toBe(2);
  expect(() => new FlowGuard({ idleTimeout: "1 minute" as never }, clock)).toThrow("is not a duration");
});

test("one timer for all bodies, and none where nobody waits", async () => {
  const clock = fakeClock();
  const slept = vi.spyOn(clock, "sleep");
  const guard = new FlowGuard({}, clock);
  for (let i = 0; i < 100; i++) await sizeOf(guard.incoming(Readable.from([bytes(10)])));
  expect(slept.mock.calls.length).toBe(1);
  await clock.advance(3_600_000);
  expect(slept.mock.calls.length).toBe(1);
});

test("time in which the process did not run is nobody's", async () => {
  let now = 0;
  let wake = () => {};
  const clock: Clock = {
    now: () => now,
    elapsed: () => now,
    sleep: () =>
      new Promise((resolve) => {
        wake = resolve;
      }),
  };
  const tick = async (ms: number) => {
    now += ms;
    wake();
    await sleep(0);
  };
  let failed = false;
  sizeOf(new FlowGuard({}, clock).incoming({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) })).catch(() => {
    failed = true;
  });
  await tick(3_600_000);
  for (let at = 0; at < 45_000; at += 5000) await tick(5000);
  expect(failed).toBe(false);
  for (let at = 0; at < 15_000; at += 5000) await tick(5000);
  expect(failed).toBe(true);
});

test.each([-3_600_000, 3_600_000])("a clock that is set by %s ms ends nothing, and keeps nothing alive", async (by) => {
  const clock = fakeClock();
  const guard = new FlowGuard({}, clock);
  // Some bytes every ten seconds: enough, whatever the time of day is said to be.
  const steady = sizeOf(guard.incoming(after(clock, 10_000, 30_000, 6)));
  await clock.advance(20_000);
  clock.set(clock.now() + by);
  await clock.advance(40_000);
  expect(await steady).toBe(180_000);
  let failed = false;
  sizeOf(guard.incoming({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) })).catch(() => {
    failed = true;
  });
  clock.set(clock.now() + by);
  await clock.advance(120_000);
  expect(failed).toBe(true);
});

test("an abandoned body is not watched any more", async () => {
  const clock = fakeClock();
  const guard = new FlowGuard({}, clock);
  for await (const _ of guard.incoming(Readable.from([bytes(1), bytes(1)]))) break;
  const broken = guard.incoming({ [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(new Error("gone")) }) });
  await expect(sizeOf(broken)).rejects.toThrow("gone");
  const slept = vi.spyOn(clock, "sleep");
  await clock.advance(3_600_000);
  expect(slept).not.toHaveBeenCalled();
});
