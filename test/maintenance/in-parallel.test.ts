import { aggregate, localRegistry } from "oci-manifold";
import { exportLayout, importLayout } from "oci-manifold/layout";
import { browse, copyToLocal, findDangling, promote, repair, scrub } from "oci-manifold/maintenance";
import { adoptDistribution, distributionFolder } from "oci-manifold/migrate";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { inParallel } from "../../src/maintenance/in-parallel.js";

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

async function* numbers(count: number, taken: number[] = []): AsyncGenerator<number> {
  for (let number = 0; number < count; number++) {
    taken.push(number);
    yield number;
  }
}

test("so many run at a time, and no more is read than is worked on", async () => {
  const taken: number[] = [];
  const done: number[] = [];
  let running = 0;
  let most = 0;
  await inParallel(numbers(20, taken), { concurrency: 3 }, async (number) => {
    most = Math.max(most, ++running);
    expect(taken.length).toBeLessThanOrEqual(done.length + 3);
    for (let turns = 0; turns <= number % 4; turns++) await turn();
    running--;
    done.push(number);
  });
  expect(most).toBe(3);
  expect([...done].sort((a, b) => a - b)).toEqual(taken);
  expect(taken.length).toBe(20);
});

test("after a failure none is begun, those that run are told and waited for, and the source is closed", async () => {
  const begun: number[] = [];
  const ended: string[] = [];
  let closed = false;
  const source = async function* () {
    try {
      yield* numbers(10);
    } finally {
      closed = true;
    }
  };
  const work = inParallel(source(), { concurrency: 3 }, async (number, signal) => {
    begun.push(number);
    if (number === 1) throw new Error("of 1");
    while (!signal.aborted) await turn();
    await turn();
    ended.push(`${number} after ${(signal.reason as Error).message}`);
  });
  await expect(work).rejects.toThrow("of 1");
  expect([begun.includes(3), ended.includes("0 after of 1"), ended.length, closed]).toEqual([false, true, begun.length - 1, true]);
});

test("a source that fails ends the others too", async () => {
  let ended = false;
  const source = async function* () {
    yield 1;
    throw new Error("of the source");
  };
  const work = inParallel(source(), { concurrency: 2 }, async (_, signal) => {
    while (!signal.aborted) await turn();
    ended = true;
  });
  await expect(work).rejects.toThrow("of the source");
  expect(ended).toBe(true);
});

test("an abort is told with its own reason", async () => {
  const abort = new AbortController();
  const begun: number[] = [];
  const work = inParallel([1, 2, 3, 4], { concurrency: 2, signal: abort.signal }, async (number, signal) => {
    begun.push(number);
    if (number === 2) abort.abort(new Error("enough"));
    while (!signal.aborted) await turn();
    throw new Error("of the work");
  });
  await expect(work).rejects.toThrow("enough");
  expect(begun).toEqual([1, 2]);
});

test.each([0, -1, 1.5, Number.NaN])("no function of upkeep takes a concurrency of %s", async (concurrency) => {
  const storage = memoryStorage();
  const local = localRegistry({ storage, name: "local" });
  const all = aggregate({ local: localRegistry({ storage, name: "all" }), connectors: [] });
  const calls = {
    adopt: () => adoptDistribution(local, distributionFolder("/nowhere"), { concurrency }),
    audit: () => findDangling(all, { concurrency }),
    browse: () => browse(local, "app", { limit: 1 }, { concurrency }),
    exportLayout: () => exportLayout(local, "/nowhere/layout", { repository: "app", concurrency }),
    importLayout: () => importLayout(local, "/nowhere/layout", { concurrency }),
    pin: () => copyToLocal(all, "all", { concurrency }),
    promote: () => promote(local, all, { repository: "app", tags: [], by: "ana", concurrency }),
    repair: () => repair(all, { concurrency }),
    scrub: () => scrub(storage, { concurrency }),
  };
  for (const [name, call] of Object.entries(calls)) {
    await expect(call(), name).rejects.toMatchObject({ code: "UNKNOWN", message: "concurrency must be a whole number from 1" });
  }
});
