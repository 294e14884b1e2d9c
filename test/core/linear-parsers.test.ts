import { describe, expect, test } from "vitest";
import { isMediaType } from "../../src/core/media-types.js";
import { isRepositoryName } from "../../src/core/name.js";
import { entityTags, parseRanges } from "../../src/http/headers.js";
import { parseChallenges } from "../../src/remote/challenge.js";
import { entryCredentials } from "../../src/remote/docker-credentials.js";
import { RemoteFailure } from "../../src/remote/failures.js";
import { nextPage } from "../../src/remote/link-header.js";
import { onOneLine, withoutSecrets } from "../../src/remote/stated-text.js";
import { compileGlob } from "../../src/views/patterns.js";
import { parseVersion } from "../../src/views/semver.js";
import { soon } from "../fixtures/parsing.js";

/** In characters. What looks at each one for each other one would take hours, and what looks at each one a few times takes some hundred milliseconds. */
const size = 4 * 1024 * 1024;
/** Shorter than hours, and longer than anything linear takes on a busy machine. */
const limit = 15_000;
const repeated = (part: string, length = size) => part.repeat(length / part.length);
const current = new URL("https://registry.example/v2/app/tags/list");

describe("what clients and upstreams send is read in time that grows with its length alone", () => {
  test.each(["<", "<>", "<>;", "<>; ", " ;", '<>;a="', '<>;a="\\', "<> ;a =", "<>;a=b;", "<,"])("a Link header full of %j", (part) => {
    const header = `<x>${repeated(part)}`;
    // No link names its relation, so each is refused; a header without links has no next page.
    const read = () => {
      try {
        return nextPage(header, current);
      } catch (error) {
        return error;
      }
    };
    expect(soon(read, limit)).toEqual(new RemoteFailure("a link does not say whether it leads to the next page"));
  });

  // Each scheme is an object: fewer of them.
  test.each(['Bearer a="', 'Bearer a="\\', "a=,", "Bearer ====", "a", "x\t", " ,", "= "])("challenges full of %j", (part) => {
    const header = repeated(part, size / 4);
    for (const text of [header, `Bearer a="${header}`]) expect(soon(() => parseChallenges(text), limit)).toBeInstanceOf(Array);
  });

  test.each(["a.", "a", "a:", "-a", "basic ", "http:/"])("what an upstream says of an error, full of %j", (part) => {
    const text = repeated(part);
    expect(soon(() => onOneLine(withoutSecrets(text)), limit).length).toBeGreaterThan(0);
  });

  test.each([`${" ; x".repeat(8)}\x01`, `${` ; ${" ".repeat(150)}`.repeat(8)}\x01`, `${` ; ${"a".repeat(195)} `.repeat(8)}\x01`])(
    "media types, as many as an index has children: %#",
    (parameters) => {
      const types = Array.from({ length: 10_000 }, (_, at) => `application/x${at}${parameters}`);
      expect(soon(() => types.some(isMediaType), limit)).toBe(false);
    },
  );

  test.each([" ; x", "; ", "a"])("a media type full of %j", (part) => {
    const text = `a/b${repeated(part)}`;
    expect(soon(() => isMediaType(text), limit)).toBe(false);
  });

  test.each(["\0", "\0a"])("a password of docker's full of %j", (part) => {
    const auth = Buffer.from(`user:a${repeated(part, 2 * 1024 * 1024)}a`).toString("base64");
    expect(soon(() => entryCredentials({ auth }), limit)).toMatchObject({ username: "user" });
  });

  test.each(["1-,", "-", " ", "1 "])("a Range full of %j", (part) => {
    const header = `bytes=${repeated(part)}`;
    expect(soon(() => parseRanges(header), limit)).toBeUndefined();
  });

  test.each(['"', "W/", ",", '" '])("entity tags full of %j", (part) => {
    const header = repeated(part);
    expect(soon(() => entityTags(header, "weak"), limit).length).toBeLessThan(2);
  });

  test.each(["1.", "1-", "-_", "1"])("a version full of %j, and a name", (part) => {
    const text = repeated(part);
    expect(soon(() => [parseVersion(text)?.suffix, isRepositoryName(text)], limit)[1]).toBe(false);
  });

  test("a name against a pattern of many stars", () => {
    const name = "ab/".repeat(50_000);
    expect(soon(() => compileGlob("**a**b**c*d**")(name), limit)).toBe(false);
  });
});

test("media types have parameters, with spaces around them or without", () => {
  for (const text of ["a/b", "a/b;c", "a/b; c=d", "a/b ; c=d ; e", `a/b${"; c".repeat(8)}`, `a/b; ${"c".repeat(200)}`])
    expect([text, isMediaType(text)]).toEqual([text, true]);
  for (const text of ["a", "a/b c", "a/b  ;c", "a/b;", "a/b;c;", `a/b${"; c".repeat(9)}`, `a/b; ${"c".repeat(202)}`, "a/b; \x01"])
    expect([text, isMediaType(text)]).toEqual([text, false]);
});

test("a password keeps what is not padding", () => {
  const read = (password: string) => entryCredentials({ auth: Buffer.from(`user:${password}`).toString("base64") });
  for (const [padded, password] of [
    ["\0\0a\0b\0", "a\0b"],
    ["a", "a"],
    ["\0\0", ""],
  ] as const)
    expect(read(padded)).toEqual({ username: "user", password });
});

test("URLs and credentials in what an upstream says are left out, also in the middle of other text", () => {
  expect(withoutSecrets("see x.https://s3.example/a?sig=1, or basic Zm9v and BEARER  abc")).toBe(
    "see (URL) or basic (hidden) and BEARER (hidden)",
  );
  expect(withoutSecrets("a.b.c: no URL")).toBe("a.b.c: no URL");
});
