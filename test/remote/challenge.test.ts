import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseChallenges, preferredChallenge } from "../../src/remote/challenge.js";

const read = (header: string | string[]) =>
  parseChallenges(header).map(({ scheme, parameters, token68 }) => ({
    scheme,
    ...Object.fromEntries(parameters),
    ...(token68 && { token68 }),
  }));

describe("the challenge tokenizer", () => {
  it.each([
    [
      "commas in quotes",
      'Bearer realm="https://a/t?x=1,2",service="s",scope="repository:a/b:pull,push"',
      [{ scheme: "bearer", realm: "https://a/t?x=1,2", service: "s", scope: "repository:a/b:pull,push" }],
    ],
    ["escaped quotes", 'Basic realm="a \\"b\\" \\\\c"', [{ scheme: "basic", realm: 'a "b" \\c' }]],
    ["any case", 'BEARER Realm="r",SERVICE=s', [{ scheme: "bearer", realm: "r", service: "s" }]],
    ["spaces around =", 'Bearer realm = "r" , service\t=\t"s"', [{ scheme: "bearer", realm: "r", service: "s" }]],
    [
      "several challenges in one header",
      'Basic realm="b", Bearer realm="r",scope="x"',
      [
        { scheme: "basic", realm: "b" },
        { scheme: "bearer", realm: "r", scope: "x" },
      ],
    ],
    [
      "token68 and schemes alone",
      'Negotiate, NTLM TlRMTVNTUAAB==, Basic realm="b"',
      [{ scheme: "negotiate" }, { scheme: "ntlm", token68: "TlRMTVNTUAAB==" }, { scheme: "basic", realm: "b" }],
    ],
    ["a token68 like a name", "Foo abc", [{ scheme: "foo", token68: "abc" }]],
    ["no comma between parameters", 'Bearer realm="r" service="s"', [{ scheme: "bearer", realm: "r", service: "s" }]],
    ["empty elements", ',, Basic realm="b",,', [{ scheme: "basic", realm: "b" }]],
    ["the first of a repeated parameter", 'Bearer realm="a",realm="b"', [{ scheme: "bearer", realm: "a" }]],
    ["an unterminated quote", 'Bearer service="s",realm="http://x', [{ scheme: "bearer", service: "s" }]],
    ["an empty value", 'Bearer realm=""', [{ scheme: "bearer", realm: "" }]],
    ["nothing", "", []],
    ["noise", "@@@", []],
  ])("reads %s", (_, header, expected) => {
    expect(read(header)).toEqual(expected);
  });

  it("reads several headers in order", () => {
    expect(read(['Basic realm="b"', 'Bearer realm="r"']).map(({ scheme }) => scheme)).toEqual(["basic", "bearer"]);
    expect(parseChallenges(undefined)).toEqual([]);
  });

  it("prefers Bearer to Basic, in whatever order they come, and neither to nothing", () => {
    expect(preferredChallenge(parseChallenges('Basic realm="b", Bearer realm="r"'))?.scheme).toBe("bearer");
    expect(preferredChallenge(parseChallenges('Negotiate, Basic realm="b"'))?.scheme).toBe("basic");
    expect(preferredChallenge(parseChallenges("Negotiate"))).toBeUndefined();
  });

  const name = fc.stringMatching(/^[a-z][a-z0-9_-]{0,8}$/);
  const parameters = fc.uniqueArray(fc.tuple(name, fc.stringMatching(/^[ -~]{0,30}$/)), {
    selector: ([key]) => key,
    minLength: 1,
    maxLength: 4,
  });
  const challenges = fc.array(fc.record({ scheme: name, parameters }), { maxLength: 4 });
  const quote = (text: string) => `"${text.replace(/["\\]/g, "\\$&")}"`;

  it("reads back whatever was written, in one header or several", () => {
    fc.assert(
      fc.property(challenges, fc.boolean(), (list, oneHeader) => {
        const texts = list.map(
          ({ scheme, parameters: p }) => `${scheme.toUpperCase()} ${p.map(([k, v]) => `${k}=${quote(v)}`).join(", ")}`,
        );
        const parsed = parseChallenges(oneHeader ? texts.join(", ") : texts);
        expect(parsed.map((c) => ({ scheme: c.scheme, parameters: [...c.parameters] }))).toEqual(list);
      }),
    );
  });

  it("never throws and always ends", () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'aB1=",\\ \t/+~;') }), (text) => void parseChallenges(text)),
      { numRuns: 2000 },
    );
    fc.assert(fc.property(fc.string(), (text) => void parseChallenges(text)));
  });
});
