import fc from "fast-check";
import { expect, test } from "vitest";
import { resolveRange } from "../../src/core/range.js";
import { parseRange, parseUploadRange, uploadRange } from "../../src/http/ranges.js";

test.each([
  ["bytes=0-9", { start: 0, end: 9 }],
  ["Bytes=5-", { start: 5 }],
  ["bytes=-7", { last: 7 }],
  ["bytes=9-3", { start: 9, end: 3 }],
  ["bytes=99999999999999999999999-", { start: Number.MAX_SAFE_INTEGER }],
])("%s", (header, range) => {
  expect(parseRange(header)).toEqual(range);
});

test.each([undefined, "", "bytes=", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,5-6", "bytes=0-1, -2"])(
  "%s means the whole",
  (header) => {
    expect(parseRange(header)).toBeUndefined();
  },
);

test("whatever the header, a range never throws and what fits lies within the blob", () => {
  const header = fc.oneof(
    fc.string(),
    fc.tuple(fc.nat(), fc.nat()).map(([a, b]) => `bytes=${a}-${b}`),
    fc.nat().map((n) => `bytes=-${n}`),
  );
  fc.assert(
    fc.property(header, fc.nat(), (text, total) => {
      const range = parseRange(text);
      if (!range) return;
      try {
        const { start, end } = resolveRange(range, total);
        expect(start).toBeGreaterThanOrEqual(0);
        expect(start).toBeLessThanOrEqual(end);
        expect(end).toBeLessThan(total);
      } catch (error) {
        expect(error).toMatchObject({ code: "RANGE_INVALID" });
      }
    }),
  );
});

test("an upload's Content-Range is first-last", () => {
  expect(parseUploadRange("0-0")).toEqual({ start: 0, length: 1 });
  expect(parseUploadRange("10-19")).toEqual({ start: 10, length: 10 });
  for (const text of ["", "5-4", "bytes 0-1/2", "0-", "-1", "0-1 ", "0-99999999999999999999"])
    expect(parseUploadRange(text)).toBeUndefined();
  fc.assert(fc.property(fc.string(), (text) => void parseUploadRange(text)));
});

test("an upload's Range names its last byte", () => {
  expect(uploadRange(0)).toBe("0-0");
  expect(uploadRange(1)).toBe("0-0");
  expect(uploadRange(100)).toBe("0-99");
});
