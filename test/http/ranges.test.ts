import fc from "fast-check";
import { expect, test } from "vitest";
import { parseRanges, resolveRanges } from "../../src/http/headers.js";
import { parseUploadRange, uploadRange } from "../../src/http/uploads.js";

test.each([
  ["bytes=0-9", [{ start: 0, end: 9 }]],
  ["Bytes=5-", [{ start: 5 }]],
  ["bytes=-7", [{ last: 7 }]],
  ["bytes=9-3", [{ start: 9, end: 3 }]],
  ["bytes=99999999999999999999999-", [{ start: Number.MAX_SAFE_INTEGER }]],
  ["bytes=0-1, 5-6,-2", [{ start: 0, end: 1 }, { start: 5, end: 6 }, { last: 2 }]],
])("%s", (header, range) => {
  expect(parseRanges(header)).toEqual(range);
});

test.each([undefined, "", "bytes=", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,", "bytes=0-1,x", `bytes=${"0-0,".repeat(1024)}0-0`])(
  "%s means the whole",
  (header) => {
    expect(parseRanges(header)).toBeUndefined();
  },
);

test("whatever the header, a range never throws and what fits lies within the blob", () => {
  const header = fc.oneof(
    fc.string(),
    fc.tuple(fc.nat(), fc.nat()).map(([a, b]) => `bytes=${a}-${b}`),
    fc.nat().map((n) => `bytes=-${n}`),
    fc
      .array(fc.tuple(fc.nat(99), fc.nat(99)), { minLength: 1, maxLength: 5 })
      .map((parts) => `bytes=${parts.map(([a, b]) => `${a}-${b}`).join(", ")}`),
  );
  fc.assert(
    fc.property(header, fc.nat(), (text, total) => {
      const ranges = parseRanges(text);
      if (!ranges) return;
      try {
        const resolved = resolveRanges(ranges, total);
        if (resolved === "whole") return;
        for (const { start, end } of resolved) {
          expect(start).toBeGreaterThanOrEqual(0);
          expect(start).toBeLessThanOrEqual(end);
          expect(end).toBeLessThan(total);
        }
      } catch (error) {
        expect(error).toMatchObject({ code: "RANGE_INVALID" });
      }
    }),
  );
});

test("ranges outside are left out, overlapping ones mean the whole, and none inside is an error", () => {
  const at = (start: number, end: number) => ({ start, end });
  expect(resolveRanges([at(0, 1), at(50, 60), at(8, 99)], 10)).toEqual([
    { start: 0, end: 1, total: 10 },
    { start: 8, end: 9, total: 10 },
  ]);
  expect(resolveRanges([at(5, 9), at(0, 5)], 10)).toBe("whole");
  expect(() => resolveRanges([at(10, 11), { last: 0 }], 10)).toThrow(expect.objectContaining({ code: "RANGE_INVALID" }));
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
