import fc from "fast-check";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { parseChallenges, preferredChallenge } from "../../src/remote/challenge.js";
import { parseRetryAfter, RemoteFailure } from "../../src/remote/failures.js";
import { nextPage } from "../../src/remote/link-header.js";
import { printable, soon } from "../fixtures/parsing.js";

const letters = (alphabet: string, maxLength = 8) => fc.string({ unit: fc.constantFrom(...alphabet), minLength: 1, maxLength });
const token = letters("aBz09-._~!");
const text = fc.string({ unit: fc.constantFrom(...'aZ0 ,;="\\<>:/\u00e9'), maxLength: 12 });
const quoted = (value: string) => `"${value.replace(/["\\]/g, "\\$&")}"`;
const noise = (special: string) => fc.string({ unit: fc.constantFrom(...printable(special)), maxLength: 60 });
const current = new URL("https://registry.example/v2/app/tags/list?n=1");

test("challenges read as they were written, several in one header, commas and quotes in values", () => {
  const parameters = fc.uniqueArray(fc.tuple(token, text, fc.boolean()), {
    selector: ([name]) => name.toLowerCase(),
    minLength: 1,
    maxLength: 4,
  });
  const challenge = fc.oneof(
    fc.record({ scheme: token, parameters }),
    fc.record({
      scheme: token,
      credentials: fc.tuple(letters("aZ09-._~+/"), fc.constantFrom("", "=", "==")).map((parts) => parts.join("")),
    }),
    fc.record({ scheme: token }),
  );
  const headers = fc.array(fc.array(challenge, { minLength: 1, maxLength: 3 }), { maxLength: 3 });
  fc.assert(
    fc.property(headers, fc.constantFrom(",", ", ", " ,, "), fc.constantFrom("=", " = "), (all, comma, equals) => {
      const plain = (value: string) => /^[aBz09\-._~!]+$/.test(value);
      const write = (one: (typeof all)[number][number]) => {
        if ("credentials" in one) return `${one.scheme} ${one.credentials}`;
        if (!("parameters" in one)) return one.scheme;
        return `${one.scheme} ${one.parameters.map(([name, value, bare]) => name + equals + (bare && plain(value) ? value : quoted(value))).join(comma)}`;
      };
      const read = parseChallenges(all.map((header) => header.map(write).join(comma)));
      const expected = all.flat().map((one) => ({
        scheme: one.scheme.toLowerCase(),
        parameters: new Map("parameters" in one ? one.parameters.map(([name, value]) => [name.toLowerCase(), value]) : []),
        ...("credentials" in one && { token68: one.credentials }),
      }));
      expect(read).toEqual(expected);
      const answered = preferredChallenge(read)?.scheme;
      expect(answered).toBe(["bearer", "basic"].find((scheme) => expected.some((one) => one.scheme === scheme)));
    }),
    { numRuns: 2000 },
  );
});

test("whatever the header says, challenges, links and times are read or left", () => {
  const clock = fakeClock();
  fc.assert(
    fc.property(fc.oneof(noise('Bearer realm="'), noise('<>;rel="next"'), fc.string({ unit: "binary" })), (header) => {
      for (const { scheme, parameters } of parseChallenges(header))
        expect([scheme, ...parameters.keys()].join("")).not.toMatch(/[A-Z\s,"]/);
      try {
        const url = nextPage(header, current);
        if (url) expect([url.origin, url.username, url.password, url.hash]).toEqual([current.origin, "", "", ""]);
      } catch (error) {
        expect(error).toBeInstanceOf(RemoteFailure);
      }
      const seconds = parseRetryAfter(header, clock);
      if (seconds !== undefined) expect(Number.isInteger(seconds) && seconds >= 0 && seconds <= 3600).toBe(true);
    }),
    { numRuns: 3000 },
  );
});

test("Retry-After in seconds and as a date", () => {
  const clock = fakeClock();
  fc.assert(
    fc.property(fc.oneof(fc.nat(), fc.nat(4000), fc.bigInt(0n, 10n ** 40n)), (seconds) => {
      const capped = Math.min(Number(seconds), 3600);
      expect(parseRetryAfter(` ${seconds} `, clock)).toBe(capped);
      if (Number(seconds) > 1e9) return;
      const date = new Date((Math.floor(clock.now() / 1000) + Number(seconds)) * 1000).toUTCString();
      expect(Math.abs((parseRetryAfter(date, clock) ?? -9) - capped)).toBeLessThanOrEqual(1);
      expect(parseRetryAfter(new Date(clock.now() - Number(seconds) * 1000 - 2000).toUTCString(), clock)).toBe(0);
    }),
  );
});

test("the next page is the first link that says so, whatever is in quotes", () => {
  const parameter = fc
    .tuple(fc.constantFrom("title", "type", "x"), fc.oneof(text, fc.constant("; rel=next")))
    .map(([name, value]) => `${name}=${quoted(value)}`);
  const relation = fc.tuple(
    fc.constantFrom("rel", "REL", " rel "),
    fc.constantFrom("next", "NEXT", "prev", '"next"', '"prev next"', '"nextish"', '"prev"'),
  );
  const link = fc.record({
    path: letters("ab/,;?=&", 8),
    before: fc.array(parameter, { maxLength: 2 }),
    relation,
    after: fc.array(parameter, { maxLength: 2 }),
  });
  fc.assert(
    fc.property(fc.array(link, { maxLength: 3 }), fc.boolean(), (links, split) => {
      const lines = links.map(({ path, before, relation, after }) => [`</v2/${path}>`, ...before, relation.join("="), ...after].join("; "));
      const header = split ? lines : lines.join(", ");
      const expected = links.find(({ relation }) => /\bnext\b/i.test(relation[1]) && !relation[1].includes("nextish"));
      expect([header, nextPage(header, current)?.href]).toEqual([header, expected && new URL(`/v2/${expected.path}`, current).href]);
    }),
    { numRuns: 2000 },
  );
});

// 16 KiB is what undici lets through.
test.each([
  "<",
  "<a>",
  "<a>;b",
  '<a>;b="',
  "<a>; ",
  "<a>;a ",
  ";rel ",
  ";rel=",
  '<a>;b="\\',
  "a ",
  "a=",
  'a="',
  "a a=",
  "Bearer ",
  "a b ",
  "=",
  ",",
  "a/",
  "\\",
  " ",
  "\t;",
  "1",
])("16 KiB of %j is read soon", (piece) => {
  for (const end of ["", "@", "x", '"', " \u00e9", ">"]) {
    const header = `Bearer a="b",${piece.repeat(16_384 / piece.length)}${end}`;
    soon(() => parseChallenges(header));
    soon(() => nextOrNot(header.slice(13)));
    soon(() => nextOrNot(`<a>;a${header.slice(13)}`));
    soon(() => parseRetryAfter(header.slice(13), fakeClock()));
  }
});

function nextOrNot(header: string) {
  try {
    nextPage(header, new URL("https://x/"));
  } catch (error) {
    expect(error).toBeInstanceOf(RemoteFailure);
  }
}
