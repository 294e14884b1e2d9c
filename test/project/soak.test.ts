import { expect, test } from "vitest";

interface Row {
  readonly what: string;
  readonly flat: boolean;
}

// The soak is plain JavaScript: it runs beside a build, without a test runner.
const { verdict } = (await import(new URL("../soak/verdict.mjs", import.meta.url).href)) as { verdict(samples: readonly object[]): Row[] };

const sample = (at: number, { files = 0, handles = 0, heap = 0, external = 0, resident = 0 } = {}) => ({
  files: { socket: 6 + files * at, file: 3 },
  handles: { TCPServerWrap: 2 + handles * at },
  memory: {
    heapUsed: 50e6 + heap * at + (at % 2) * 1e6,
    external: 24e6 + external * at,
    rss: 250e6 + resident * at - (at % 3) * 5e6,
  },
});
const growing = (growth: Parameters<typeof sample>[1]) =>
  verdict(Array.from({ length: 10 }, (_, at) => sample(at, growth)))
    .filter(({ flat }) => !flat)
    .map(({ what }) => what);

test("a soak is flat where samples only vary", () => {
  expect(growing({})).toEqual([]);
});

test("resident memory is flat where the allocator only keeps more of it in some rounds", () => {
  const kept = [0, 10e6, 0, 0, 0, 0, 40e6, 40e6, 0, 40e6];
  const rows = verdict(kept.map((more, at) => ({ ...sample(at), memory: { ...sample(at).memory, rss: 250e6 + more } })));
  expect(rows.filter(({ flat }) => !flat)).toEqual([]);
});

test.each([
  ["open files", { files: 1 }],
  ["handles", { handles: 1 }],
  ["heap, MB", { heap: 1e6 }],
  ["outside of the heap, MB", { external: 1e6 }],
  ["resident memory, MB", { resident: 5e6 }],
])("a soak is not flat where there are more %s with every round", (what, growth) => {
  expect(growing(growth)).toEqual([what]);
});
