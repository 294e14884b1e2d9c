import fc from "fast-check";
import { expect, test } from "vitest";
import { compilePatterns } from "../../src/views/patterns.js";
import { compileRange, parseVersion } from "../../src/views/semver.js";
import { accepted } from "../fixtures/parsing.js";

const within = (range: string, tag: string) => compilePatterns([`a:${range}`]).tag("a", tag);

test.each([
  ["{>=20 <23}", ["20", "20.1", "22.9.9", "v21.0.0", "22"], ["19.9", "23", "23.0.0", "22-alpine", "latest", "22rc1", "1.2.3.4", "x22"]],
  ["{>=20.1 <23}", ["20.1", "20.1.0", "21", "22"], ["20", "20.0.9", "23"]],
  ["{<22.5}", ["22.4", "22.4.9", "21"], ["22", "22.5", "22.5.1"]],
  ["{<=22}", ["22", "22.9.9"], ["23"]],
  ["{>22}", ["23", "23.0.0"], ["22", "22.9.9"]],
  ["{22.1}", ["22.1", "22.1.7"], ["22", "22.10", "22.2"]],
  ["{=22.1.0}", ["22.1.0"], ["22.1", "22.1.1"]],
  ["{^1.2}", ["1.2", "1.9.3"], ["1", "1.1", "2"]],
  ["{^0.2.3}", ["0.2.3", "0.2.9"], ["0.2.2", "0.3.0", "0.2"]],
  ["{~1.2.3}", ["1.2.3", "1.2.9"], ["1.3.0", "1.2.2"]],
  ["{^1 || >=3 <4}", ["1.5", "3.9.9", "3"], ["2", "4"]],
  ["{>=20}-alpine*", ["20-alpine", "22.1-alpine3.20"], ["20", "20-slim", "19-alpine"]],
  ["{>=20}*", ["20", "20.1.1-rc.1", "21_build"], ["19-x", "a20"]],
  ["{>=22.04}", ["22.04", "22.10", "24.04"], ["20.04"]],
])("%s", (range, inside, outside) => {
  for (const tag of inside) expect([tag, within(range, tag)]).toEqual([tag, true]);
  for (const tag of outside) expect([tag, within(range, tag)]).toEqual([tag, false]);
});

test.each(["{}", "{ }", "{>}", "{a}", "{>=1 ||}", "{1.2.3.4}", "{>=1", ">=1}", "{{1}}", "v{1}", "{>=20}/x"])(
  "%j is no pattern",
  (range) => {
    expect(() => compilePatterns([`a:${range}`])).toThrow(expect.objectContaining({ code: "NAME_INVALID" }));
  },
);

const number = fc.nat({ max: 3 });
const version = fc.array(number, { minLength: 1, maxLength: 3 });
const comparator = fc.tuple(fc.constantFrom(">=", "<=", ">", "<", "=", ""), version);

/** What npm says a comparator with missing parts means, over all complete versions. */
function naive(operator: string, bound: readonly number[], [a = 0, b = 0, c = 0]: readonly number[]): boolean {
  const weight = (parts: readonly number[], missing: number) => [0, 1, 2].reduce((sum, at) => sum * 100 + (parts[at] ?? missing), 0);
  const [first, last, at] = [weight(bound, 0), weight(bound, 99), weight([a, b, c], 0)];
  switch (operator) {
    case ">=":
      return at >= first;
    case ">":
      return at > last;
    case "<":
      return at < first;
    case "<=":
      return at <= last;
    default:
      return at >= first && at <= last;
  }
}

test("a tag is in a range when all that it may come to point to is", () => {
  fc.assert(
    fc.property(fc.array(comparator, { minLength: 1, maxLength: 3 }), version, (comparators, numbers) => {
      const range = compileRange(comparators.map(([operator, bound]) => operator + bound.join(".")).join(" "));
      const parsed = parseVersion(numbers.join("."));
      if (!parsed) throw new Error("no version");
      const rest = [0, 1, 2, 3, 4, 98];
      const complete = [numbers].flatMap((start) => {
        let all: number[][] = [start];
        while ((all[0]?.length ?? 3) < 3) all = all.flatMap((each) => rest.map((next) => [...each, next]));
        return all;
      });
      const expected = complete.every((each) => comparators.every(([operator, bound]) => naive(operator, bound, each)));
      expect(range(parsed)).toBe(expected);
    }),
    { numRuns: 3000 },
  );
});

test("any text in braces is a range or NAME_INVALID", () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(..."{}<>=^~|. 0129vx-*a") }), (text) => {
      accepted(() => compilePatterns([`a:{${text}}`]), "NAME_INVALID");
    }),
  );
});

test("a verdict names the pattern that decided", () => {
  const patterns = compilePatterns(["a/**", "b:{>=2}"], ["a/x", "a/y:latest"]);
  expect(patterns.verdict("a/x")).toEqual({ visible: false, pattern: "a/x" });
  expect(patterns.verdict("a/z", "1")).toEqual({ visible: true, pattern: "a/**" });
  expect(patterns.verdict("a/y", "latest")).toEqual({ visible: false, pattern: "a/y:latest" });
  expect(patterns.verdict("a/y")).toEqual({ visible: true, pattern: "a/**" });
  expect(patterns.verdict("b", "2.1")).toEqual({ visible: true, pattern: "b:{>=2}" });
  expect(patterns.verdict("b", "1")).toEqual({ visible: false });
  expect(patterns.verdict("c")).toEqual({ visible: false });
  expect(compilePatterns(undefined).verdict("c", "1")).toEqual({ visible: true });
});
