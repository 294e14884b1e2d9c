import { Worker } from "node:worker_threads";
import type { Change, Condition, MetadataStore, RecordKey } from "oci-manifold/extend";
import { sqliteMetadata } from "oci-manifold/storage/files";
import { memoryMetadataStore } from "oci-manifold/storage/memory";
import { afterEach, describe, expect, test, vi } from "vitest";
import { RecordCache } from "../../src/storage/files/record-cache.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

/** What a turn's units pay for, twice: the budget and a test are told of a turn's end at different moments. */
const mostInTurn = 2 * (300 / 0.2);
const count = 10_000;

/** Counts pieces of work, and the most in one turn of the event loop. */
function counter() {
  const counted = { all: 0, mostInTurn: 0 };
  let inTurn = 0;
  return {
    counted,
    add(pieces: number) {
      if (inTurn === 0)
        setImmediate(() => {
          inTurn = 0;
        });
      counted.all += pieces;
      inTurn += pieces;
      counted.mostInTurn = Math.max(counted.mostInTurn, inTurn);
    },
  };
}

const key = (index: number): RecordKey<"tag"> => ({ kind: "tag", parts: ["release", "app", `v${index}`] });
const digest = `sha256:${"0".repeat(64)}`;
const puts = (): Change[] => Array.from({ length: count }, (_, index) => ({ put: key(index), value: { digest, updatedAt: 0 } }) as Change);

/** A delete of so many tags, which tells each look at a condition and at a change. */
function removal(is: "present" | "absent", conditionSeen: () => void, changeSeen: () => void) {
  const seen = <T extends object>(value: T, name: string, tell: () => void): T =>
    Object.defineProperty({ ...value }, name, {
      enumerable: true,
      get() {
        tell();
        return Reflect.get(value, name);
      },
    });
  const conditions = Array.from({ length: count }, (_, index) => seen<Condition>({ key: key(index), is }, "key", conditionSeen));
  const changes = Array.from({ length: count }, (_, index) => seen<Change>({ remove: key(index) }, "remove", changeSeen));
  return { conditions, changes };
}

const stores: Record<string, () => MetadataStore> = {
  SQLite: () => sqliteMetadata(temporaryFolder()),
  memory: () => memoryMetadataStore(),
};

afterEach(() => vi.restoreAllMocks());

describe.each(Object.entries(stores))("a commit of 10,000 conditions and removals in %s", (_name, open) => {
  test.each(["present", "absent"] as const)("is made out over many turns, and is one: all of them are %s", async (is) => {
    const metadata = open();
    expect(await metadata.commit([], puts())).toBe(true);
    const looks = { conditions: counter(), changes: counter() };
    const { conditions, changes } = removal(
      is,
      () => looks.conditions.add(1),
      () => looks.changes.add(1),
    );
    expect(await metadata.commit(conditions, changes)).toBe(is === "present");
    const left = await metadata.names({ kind: "tag", under: ["release", "app"], limit: count });
    expect(left).toHaveLength(is === "present" ? 0 : count);
    for (const { counted } of [looks.conditions, looks.changes]) {
      expect(counted.all).toBeGreaterThanOrEqual(count);
      // Each is looked at a few times when its turn comes.
      expect(counted.mostInTurn).toBeLessThan(4 * mostInTurn);
    }
    await metadata.close();
  });
});

test("a large commit is sent to the thread in parts, conditions and rows, and what is remembered is dropped over many turns", async () => {
  const metadata = sqliteMetadata(temporaryFolder());
  await metadata.commit([], puts());
  const sent: number[] = [];
  const post = Worker.prototype.postMessage;
  vi.spyOn(Worker.prototype, "postMessage").mockImplementation(function (this: Worker, ...args: Parameters<typeof post>) {
    const { part, group = [] } = args[0] as { part?: { conditions: []; rows: [] }; group?: { conditions: []; rows: [] }[] };
    sent.push([...(part ? [part] : []), ...group].reduce((sum, { conditions, rows }) => sum + conditions.length + rows.length, 0));
    return post.apply(this, args);
  });
  const dropped = counter();
  const { changing, changed } = RecordCache.prototype;
  vi.spyOn(RecordCache.prototype, "changing").mockImplementation(function (this: RecordCache, rows) {
    dropped.add(rows.length);
    return changing.call(this, rows);
  });
  vi.spyOn(RecordCache.prototype, "changed").mockImplementation(function (this: RecordCache, rows) {
    dropped.add(rows.length);
    return changed.call(this, rows);
  });
  const { conditions, changes } = removal(
    "present",
    () => {},
    () => {},
  );
  expect(await metadata.commit(conditions, changes)).toBe(true);
  expect(sent.reduce((sum, parts) => sum + parts, 0)).toBe(2 * count);
  expect(Math.max(...sent)).toBeLessThanOrEqual(1000);
  expect(dropped.counted.all).toBe(2 * count);
  expect(dropped.counted.mostInTurn).toBeLessThanOrEqual(mostInTurn);

  // Conditions alone may be many, too.
  sent.length = 0;
  expect(await metadata.commit(conditions, changes.slice(0, 1))).toBe(false);
  expect(Math.max(...sent)).toBeLessThanOrEqual(1000);
  await metadata.close();
});
