import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { digestOf, isDigest, parseDigest } from "../../src/core/digest.js";
import { errorStatus, isRegistryError, RegistryError } from "../../src/core/errors.js";
import { isRepositoryName, isTag, parseReference } from "../../src/core/name.js";
import { resolveRange } from "../../src/core/range.js";
import { toBytes, toMilliseconds } from "../../src/core/units.js";

describe("names", () => {
  test.each(["a", "library/node", "a.b", "a__b", "a---b", "a/b/c", "0", "a_b/c-d", "x".repeat(255)])("%j is one", (name) => {
    expect(isRepositoryName(name)).toBe(true);
  });
  test.each(["", "A", "a//b", "/a", "a/", "-a", "a-", "a..b", "a___b", "a b", "a/../b", "a\0", "ä", "x".repeat(256), "a:b"])(
    "%j is none",
    (name) => {
      expect(isRepositoryName(name)).toBe(false);
    },
  );
  test("none of them can break a key or a path", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        if (isRepositoryName(text)) expect(text).toMatch(/^[a-z0-9._/-]+$/);
        if (isTag(text)) expect(text).toMatch(/^[\w.-]{1,128}$/);
      }),
    );
  });
});

describe("references", () => {
  const digest = digestOf(Buffer.from("x"));
  test("a tag or a digest", () => {
    expect(parseReference("v1.0_x-")).toEqual({ kind: "tag", tag: "v1.0_x-" });
    expect(parseReference(digest)).toEqual({ kind: "digest", digest });
    expect(isDigest(digestOf(Buffer.from("x"), "sha512"))).toBe(true);
  });
  test.each(["sha256:abc", digest.toUpperCase(), `md5:${"a".repeat(32)}`, `sha256:${"g".repeat(64)}`, ":", `${digest}0`])(
    "%j is no digest",
    (text) => {
      expect(() => parseReference(text)).toThrow(expect.objectContaining({ code: "DIGEST_INVALID", status: 400 }));
      expect(() => parseDigest(text)).toThrow();
    },
  );
  test.each(["", ".x", "-x", "a/b", "x".repeat(129), "a b"])("%j is no tag", (text) => {
    expect(() => parseReference(text)).toThrow(expect.objectContaining({ code: "MANIFEST_INVALID" }));
  });
});

test("ranges are fitted to the blob, and never lie outside it", () => {
  fc.assert(
    fc.property(fc.nat(1000), fc.nat(1200), fc.option(fc.nat(1200), { nil: undefined }), (total, start, end) => {
      const range = end === undefined ? { start } : { start, end };
      if (start < total && (end === undefined || end >= start)) {
        expect(resolveRange(range, total)).toEqual({ start, end: Math.min(end ?? total - 1, total - 1), total });
      } else {
        expect(() => resolveRange(range, total)).toThrow(
          expect.objectContaining({ code: "RANGE_INVALID", status: 416, detail: { total } }),
        );
      }
    }),
  );
  expect(resolveRange({ last: 5 }, 3)).toEqual({ start: 0, end: 2, total: 3 });
  expect(() => resolveRange({ last: 0 }, 3)).toThrow();
});

test("units", () => {
  expect([toMilliseconds("10m"), toMilliseconds("1.5h"), toMilliseconds("250ms"), toMilliseconds("7d")]).toEqual([
    600_000, 5_400_000, 250, 604_800_000,
  ]);
  expect([toBytes("64KiB"), toBytes("200GiB"), toBytes("1B")]).toEqual([65_536, 214_748_364_800, 1]);
  // @ts-expect-error plain JavaScript hosts can pass anything
  expect(() => toMilliseconds("10 minutes")).toThrow("is not a duration");
});

test("errors carry code and status, and are recognised across copies of the library", () => {
  for (const [code, status] of Object.entries(errorStatus))
    expect(new RegistryError(code as keyof typeof errorStatus, "m").status).toBe(status);
  const foreign = Object.assign(new Error("x"), { [Symbol.for("oci-manifold.RegistryError")]: true });
  expect(isRegistryError(foreign)).toBe(true);
  expect(isRegistryError(new Error("x"))).toBe(false);
});
