import { isRegistryError } from "oci-manifold";
import type { MetadataStore, RecordKey } from "oci-manifold/extend";
import { expect } from "vitest";

const kinds = 6;
/** Counts what begins and ends. */
let time = 0;
const lease = (name: string): RecordKey<"lease"> => ({ kind: "lease", parts: ["raced", name] });
const log = (id: string): RecordKey<"lease"> => ({ kind: "lease", parts: ["log", id] });

interface Required {
  readonly name: string;
  /** What the record must hold: a value seen before, anything, or nothing. */
  readonly state: { readonly holder: string } | "present" | "absent";
}

interface Attempt {
  readonly id: string;
  readonly conditions: readonly Required[];
  /** The new value of each record, or none. */
  readonly changes: ReadonlyMap<string, string | undefined>;
  readonly begun: number;
  readonly ended: number;
  readonly outcome: boolean | "failed" | "unknown";
}

function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/**
 * Random commits from several stores over one database, most of which look at what others change, and a proof that they happened one after the other: each leaves a
 * record whose version tells its place, all conditions must have held there, and what was refused must have been wrong at some place while it was under way.
 */
export async function raced(
  stores: readonly MetadataStore[],
  o: { rounds: number; seed?: number; lanes?: number },
): Promise<readonly Attempt[]> {
  const attempts: Attempt[] = [];
  const lane = async (store: MetadataStore, number: number) => {
    const seed = o.seed ?? 1;
    const random = generator(seed * 1000 + number);
    for (let round = 0; round < o.rounds; round++) {
      attempts.push(await attempt(store, `${seed}-${number}-${round}`, random));
    }
  };
  const lanes = Array.from({ length: o.lanes ?? stores.length * 3 }, (_, number) => ({ number, store: stores[number % stores.length] }));
  await Promise.all(lanes.map(({ store, number }) => (store ? lane(store, number) : undefined)));
  return attempts;
}

async function attempt(store: MetadataStore, id: string, random: (below: number) => number): Promise<Attempt> {
  const names = Array.from({ length: kinds }, (_, index) => `k${index}`).sort(() => random(3) - 1);
  const conditions: Required[] = [];
  const required = [];
  try {
    for (const name of names.slice(0, random(4))) {
      const seen = random(3) === 0 ? await store.get(lease(name)) : undefined;
      if (seen) {
        conditions.push({ name, state: { holder: seen.value.holder } });
        required.push({ key: lease(name), is: "version", version: seen.version } as const);
      } else {
        const is = random(2) === 0 ? "absent" : "present";
        conditions.push({ name, state: is });
        required.push({ key: lease(name), is } as const);
      }
    }
  } catch {
    return { id, conditions: [], changes: new Map(), begun: ++time, ended: ++time, outcome: "failed" };
  }
  const changes = new Map(names.slice(random(4), 4 + random(2)).map((name) => [name, random(2) === 0 ? `${id} ${name}` : undefined]));
  const begun = ++time;
  const writes = [...changes].map(([name, holder]) =>
    holder === undefined ? { remove: lease(name) } : { put: lease(name), value: { holder, expiresAt: 1 } },
  );
  const outcome = await store
    // A commit that was made twice would find its own mark.
    .commit([...required, { key: log(id), is: "absent" }], [...writes, { put: log(id), value: { holder: id, expiresAt: 1 } }])
    .catch((error) => {
      if (!isRegistryError(error) || error.code !== "UNAVAILABLE") throw error;
      return /not known whether/.test(error.message) ? "unknown" : "failed";
    });
  return { id, conditions, changes, begun, ended: ++time, outcome };
}

/** @returns how many commits there were, and how many were refused. */
export async function expectSerialOrder(
  store: MetadataStore,
  attempts: readonly Attempt[],
): Promise<{ committed: number; refused: number }> {
  const marks = await store.page({ kind: "lease", under: ["log"], limit: 100_000 });
  const byId = new Map(attempts.map((each) => [each.id, each]));
  const order = marks
    .toSorted((a, b) => a.version - b.version)
    .map(({ key }) => byId.get(key.parts[1] ?? "") ?? fail(`${key.parts} was never tried`));
  const places = new Map(order.map(({ id }, place) => [id, place]));
  for (const { id, outcome } of attempts) {
    if (outcome === true && !places.has(id)) fail(`${id} was answered for, and is not there`);
    if ((outcome === false || outcome === "failed") && places.has(id)) fail(`${id} was refused, and is there`);
  }
  // The state at each place: what the commit at that place found.
  const states: ReadonlyMap<string, string>[] = [new Map()];
  for (const { id, conditions, changes } of order) {
    const state = new Map(states.at(-1));
    const wrong = conditions.filter((required) => !holds(required, state));
    if (wrong.length > 0) fail(`${id} was made although ${JSON.stringify(wrong)} did not hold among ${JSON.stringify([...state])}`);
    for (const [name, holder] of changes) {
      if (holder === undefined) state.delete(name);
      else state.set(name, holder);
    }
    states.push(state);
  }
  const refused = attempts.filter(({ outcome }) => outcome === false);
  for (const { id, conditions, begun, ended } of refused) {
    const first = order.findLastIndex((other) => other.ended < begun) + 1;
    const later = order.findIndex((other) => other.begun > ended);
    const possible = states.slice(first, (later === -1 ? order.length : later) + 1);
    if (possible.every((state) => conditions.every((required) => holds(required, state)))) fail(`${id} was refused although all held`);
  }
  const kept = await store.page({ kind: "lease", under: ["raced"], limit: 100 });
  expect(new Map(kept.map(({ key, value }) => [key.parts[1], value.holder]))).toEqual(new Map([...(states.at(-1) ?? [])].sort()));
  return { committed: order.length, refused: refused.length };
}

function holds({ name, state }: Required, records: ReadonlyMap<string, string>): boolean {
  const holder = records.get(name);
  if (state === "absent") return holder === undefined;
  return holder !== undefined && (state === "present" || state.holder === holder);
}

function fail(what: string): never {
  throw new Error(what);
}
