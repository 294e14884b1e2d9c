import { RegistryError } from "../core/errors.js";

/** A tag that begins with a version: `22`, `v1.4`, `1.4.2-alpine`. */
export interface VersionTag {
  /** One to three numbers, as many as the tag has. */
  readonly numbers: readonly number[];
  /** What follows them, from its `-` or `_` on; empty when nothing does. */
  readonly suffix: string;
  /** `v` or nothing. */
  readonly prefix: string;
}

/** Longer numbers are no versions, and could not be compared exactly. */
const versionPattern = /^(v?)(\d{1,15})(?:\.(\d{1,15}))?(?:\.(\d{1,15}))?((?:[-_].*)?)$/;
const comparatorPattern = /^(>=|<=|>|<|=|\^|~)?v?(\d{1,15})(?:\.(\d{1,15}))?(?:\.(\d{1,15}))?$/;

export function parseVersion(tag: string): VersionTag | undefined {
  const match = versionPattern.exec(tag);
  if (!match) return undefined;
  const [, prefix = "", major, minor, patch, suffix = ""] = match;
  return { numbers: numbersOf([major, minor, patch]), suffix, prefix };
}

/** Whether it names one release: three numbers and nothing else. */
export function isRelease({ numbers, suffix }: VersionTag): boolean {
  return numbers.length === 3 && suffix === "";
}

/** Negative when `a` is lower. Only as many numbers count as `b` has; missing ones of `a` are zero. */
export function compareNumbers(a: readonly number[], b: readonly number[]): number {
  for (const [index, theirs] of b.entries()) {
    const ours = a[index] ?? 0;
    if (ours !== theirs) return ours < theirs ? -1 : 1;
  }
  return 0;
}

type Comparator = (numbers: readonly number[]) => boolean;

/**
 * A range as npm writes it: comparators (`>=20.1`, `<23`, `^1.2`, `~1.2`, `22`) that must all hold, alternatives between `||`. What a comparator leaves out
 * is any. A tag that leaves something out moves: `22` is in a range only when all of 22.x is.
 *
 * @throws RegistryError NAME_INVALID
 */
export function compileRange(text: string): (version: VersionTag) => boolean {
  const alternatives = text.split("||").map((part) => part.trim().split(/\s+/).map(compileComparator));
  return ({ numbers }) => {
    const [lowest, highest] = [0, Number.POSITIVE_INFINITY].map((rest) => [...numbers, rest, rest].slice(0, 3));
    return alternatives.some((all) => [lowest, highest].every((edge) => edge && all.every((holds) => holds(edge))));
  };
}

function compileComparator(text: string): Comparator {
  const match = comparatorPattern.exec(text);
  if (!match) {
    throw new RegistryError(
      "NAME_INVALID",
      `${JSON.stringify(text)} is no part of a version range: write it as ">=20.1 <23", "^1.2" or "~1.2 || 2"`,
    );
  }
  const [, operator = "=", major, minor, patch] = match;
  const bound = numbersOf([major, minor, patch]);
  const compare = (numbers: readonly number[]) => compareNumbers(numbers, bound);
  switch (operator) {
    case ">=":
      return (numbers) => compare(numbers) >= 0;
    case ">":
      return (numbers) => compare(numbers) > 0;
    case "<=":
      return (numbers) => compare(numbers) <= 0;
    case "<":
      return (numbers) => compare(numbers) < 0;
    case "^": {
      // As npm: up to the first number that is not zero nothing may change.
      const first = bound.findIndex((number) => number !== 0);
      const fixed = bound.slice(0, (first < 0 ? bound.length - 1 : first) + 1);
      return (numbers) => compare(numbers) >= 0 && compareNumbers(numbers, fixed) === 0;
    }
    case "~": {
      const fixed = bound.slice(0, 2);
      return (numbers) => compare(numbers) >= 0 && compareNumbers(numbers, fixed) === 0;
    }
    default:
      return (numbers) => compare(numbers) === 0;
  }
}

function numbersOf(parts: readonly (string | undefined)[]): number[] {
  return parts.flatMap((part) => (part === undefined ? [] : [Number(part)]));
}
