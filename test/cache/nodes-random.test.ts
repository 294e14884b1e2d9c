import { randomBytes } from "node:crypto";
import fc from "fast-check";
import type { FakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { nodesOf } from "./nodes.js";
import { arrived, scriptedSource } from "./scripted-source.js";
import { settled } from "./support.js";

const count = 3;
const runs = 25;
/** Milliseconds that clocks may be from the right time. */
const apart = 4000;
const bytes = randomBytes(200_000);
/** What may happen to a node that asks. */
type Step =
  | { readonly do: "get"; readonly node: number; readonly repository: "app" | "web" | "secret"; readonly range: boolean }
  | { readonly do: "kill" | "leave"; readonly node: number }
  | { readonly do: "pause"; readonly node: number; readonly seconds: number }
  | { readonly do: "wait"; readonly seconds: number };

const node = fc.nat({ max: count - 1 });
const get = fc.record({
  do: fc.constant("get" as const),
  node,
  repository: fc.constantFrom("app" as const, "app" as const, "web" as const, "secret" as const),
  range: fc.boolean(),
});
const wait = fc.record({ do: fc.constant("wait" as const), seconds: fc.integer({ min: 0, max: 12 }) });
const calm = [
  { weight: 6, arbitrary: get },
  { weight: 4, arbitrary: wait },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("leave" as const), node }) },
];
const rough = [
  ...calm,
  { weight: 1, arbitrary: fc.record({ do: fc.constant("kill" as const), node }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("pause" as const), node, seconds: fc.integer({ min: 1, max: 40 }) }) },
];
const steps = (of: typeof rough | typeof calm) => fc.array(fc.oneof(...(of as typeof rough)), { minLength: 3, maxLength: 14 });

/** How one transfer goes: how long it takes, and whether it breaks off for good in the middle. */
const transfers = (longest: number) =>
  fc.array(fc.record({ seconds: fc.integer({ min: 0, max: longest }), fails: fc.integer({ min: 0, max: 4 }) }), {
    minLength: 40,
    maxLength: 40,
  });
const skews = (most: number) => fc.array(fc.integer({ min: -most, max: most }), { minLength: count, maxLength: count });

/** Everything is in memory, so nothing has to wait for a disk: time may pass as fast as that. */
async function during<T>(clock: FakeClock, work: Promise<T>): Promise<T> {
  let over = false;
  const end = () => {
    over = true;
  };
  work.then(end, end);
  while (!over) {
    await settled(3);
    await clock.advance(1000);
  }
  return work;
}

async function play(plan: readonly Step[], pace: readonly { seconds: number; fails: number }[], skew: readonly number[]) {
  const scripted = scriptedSource(
    bytes,
    ({ attempt }) => {
      const { seconds = 0, fails = 1 } = pace[attempt % pace.length] ?? {};
      return { holdAt: 100_000, until: all.clock.sleep(seconds * 1000), ...(fails === 0 && { cutAt: 100_000 }) };
    },
    { repositories: ["app", "web"] },
  );
  const all = nodesOf(scripted.source, count, { skews: skew });
  const { nodes, clock, copies, storage, leases } = all;
  const alive = new Set(nodes.keys());
  const answers: { node: number; wanted: Buffer | undefined; got: Promise<{ bytes: Buffer; error?: unknown }>; left: AbortController }[] =
    [];
  let disturbed = skew.some((ahead) => Math.abs(ahead) > apart);
  for (const step of plan) {
    if (step.do === "wait") await clock.advance(step.seconds * 1000);
    else if (!alive.has(step.node)) continue;
    else if (step.do === "get") {
      const left = new AbortController();
      const range = step.range ? { start: 150_000, end: 150_099 } : undefined;
      const lookup = nodes[step.node]?.hub.getBlob(step.repository, scripted.digest, { signal: left.signal, ...(range && { range }) });
      const got = (lookup ?? Promise.reject(new Error("no node"))).then(arrived, (error: unknown) => ({ bytes: Buffer.alloc(0), error }));
      const wanted = step.repository === "secret" ? undefined : range ? bytes.subarray(150_000, 150_100) : bytes;
      answers.push({ node: step.node, wanted, got, left });
    } else if (step.do === "leave") answers.find((one) => one.node === step.node)?.left.abort(new Error("left"));
    else {
      disturbed = true;
      if (step.do === "pause") {
        nodes[step.node]?.pause();
        void clock.sleep(step.seconds * 1000).then(() => nodes[step.node]?.resume());
      } else if (alive.size > 1) {
        alive.delete(step.node);
        nodes[step.node]?.kill();
      }
    }
    if (!disturbed) expect(copies.most).toBeLessThanOrEqual(1);
  }
  const due = answers.filter((one) => alive.has(one.node));
  const ends = await during(clock, Promise.all(due.map(({ got }) => got)));
  for (const [index, { bytes: got, error }] of ends.entries()) {
    const { wanted, left } = due[index] ?? {};
    // A transfer may break off, and a client may leave; what comes to its end is right, and what is secret does not come.
    if (error !== undefined) expect(got.byteLength).toBeLessThan(wanted ? bytes.byteLength : 1);
    else expect(wanted !== undefined && (got.equals(wanted) || got.equals(bytes))).toBe(true);
    if (wanted === undefined && !left?.signal.aborted) expect(error).toMatchObject({ message: "absent" });
  }
  if (!disturbed) expect(copies.most).toBeLessThanOrEqual(1);
  // Everybody has it in the end.
  const late = Promise.all(
    [...alive].map(async (one) => arrived((await nodes[one]?.hub.getBlob("web", scripted.digest)) ?? { kind: "absent" })),
  );
  for (const { bytes: got, error } of await during(clock, late)) expect(error !== undefined || got.equals(bytes)).toBe(true);
  await during(clock, clock.sleep(120_000));
  expect((await storage.blobs.list({ limit: 9 })).items.length).toBeLessThanOrEqual(1);
  if (alive.size === count) {
    expect(await leases()).toBe(0);
    expect((await storage.blobs.listStaged({ limit: 9 })).items).toEqual([]);
  }
  await during(clock, Promise.all([...alive].map((one) => nodes[one]?.hub.close())));
  return copies;
}

test("while no node is killed or stands still, one copy at a time, whatever the order, though clocks be seconds apart", async () => {
  const property = fc.asyncProperty(steps(calm), transfers(60), skews(apart), async (plan, pace, skew) => {
    expect((await play(plan, pace, skew)).most).toBeLessThanOrEqual(1);
  });
  await fc.assert(property, { numRuns: runs });
}, 60_000);

test("with nodes that are killed and stand still and clocks that are wrong: never wrong bytes, always an answer, nothing left over", async () => {
  const property = fc.asyncProperty(steps(rough), transfers(60), skews(3_600_000), async (plan, pace, skew) => {
    await play(plan, pace, skew);
  });
  await fc.assert(property, { numRuns: runs });
}, 60_000);
