import fc from "fast-check";
import { expect, test } from "vitest";
import { compilePatterns } from "../../src/views/patterns.js";
import { accepted, soon } from "../fixtures/parsing.js";

/** `*` takes letters up to the next slash, `**` any; tried one by one. */
function matches(glob: string, text: string): boolean {
  if (glob === "") return text === "";
  if (!glob.startsWith("*")) return text !== "" && glob[0] === text[0] && matches(glob.slice(1), text.slice(1));
  const crossing = glob.startsWith("**");
  const rest = glob.slice(crossing ? 2 : 1);
  for (let taken = 0; taken <= text.length; taken++) {
    if (matches(rest, text.slice(taken))) return true;
    if (text[taken] === "/" && !crossing) return false;
  }
  return false;
}

const piece = fc.constantFrom("a", "b", "a", "b", "0", "/", "*", "**", "-", ".", "_");
const glob = fc.array(piece, { minLength: 1, maxLength: 6 }).map((parts) => parts.join(""));
const tagGlob = fc
  .array(fc.constantFrom("A", "v", "1", "*", "**", ".", "-"), { minLength: 1, maxLength: 4 })
  .map((parts) => parts.join(""));
const pattern = fc.tuple(glob, fc.option(tagGlob, { nil: undefined })).map(([name, tag]) => (tag === undefined ? name : `${name}:${tag}`));
const name = fc.array(fc.constantFrom("a", "b", "0", "/", "-", ".", "_"), { minLength: 1, maxLength: 7 }).map((parts) => parts.join(""));
const tag = fc.array(fc.constantFrom("A", "v", "1", ".", "-"), { minLength: 1, maxLength: 4 }).map((parts) => parts.join(""));

const parts = (text: string): [string, string | undefined] => {
  const at = text.indexOf(":");
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
};

test("allow and block say what a matcher says that tries everything", () => {
  const lists = fc.tuple(fc.option(fc.array(pattern, { maxLength: 3 }), { nil: undefined }), fc.array(pattern, { maxLength: 3 }));
  fc.assert(
    fc.property(lists, name, tag, ([allow, block], repository, tag) => {
      const compiled = compilePatterns(allow, block);
      const named = (list: readonly string[]) => list.map(parts).filter(([name]) => matches(name, repository));
      const [permits, refusals] = [named(allow ?? ["**"]), named(block)];
      const tagged = (list: readonly (readonly [string, string | undefined])[]) =>
        list.some(([, glob]) => glob === undefined || matches(glob, tag));
      expect(compiled.tag(repository, tag)).toBe(tagged(permits) && !tagged(refusals));
      const verdict = compiled.repository(repository);
      // What no tag can lead to is "none"; "all" means that every tag may be seen, now and later.
      if (permits.length === 0 || refusals.some(([, glob]) => glob === undefined)) expect(verdict).toBe("none");
      else expect(verdict).toBe(permits.some(([, glob]) => glob === undefined) && refusals.length === 0 ? "all" : "tags");
      if (verdict === "all") expect(compiled.tag(repository, tag)).toBe(true);
      if (verdict === "none") expect(compiled.tag(repository, tag)).toBe(false);
    }),
    { numRuns: 3000 },
  );
});

test("a list is compiled or refused as NAME_INVALID", () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom(..."a*/:.-_A([{\\^$+?|\n") })), (text) => {
      accepted(() => compilePatterns([text]), "NAME_INVALID");
      accepted(() => compilePatterns(undefined, [text]), "NAME_INVALID");
    }),
  );
});

// A registry's configuration has such patterns; the names to hold them against are any client's.
test.each(["*a*a*a*a*a*b", "**a**a**a**a**a**b", "**/**/**/**/**/**/b", "*".repeat(40), "a*-*-*-*-*-*b"])(
  "%s is matched soon, whatever the name",
  (glob) => {
    for (const unit of ["a", "a/", "a-", "a.a_"]) {
      const text = `${unit.repeat(250 / unit.length)}a`;
      for (const compiled of [compilePatterns([glob]), compilePatterns(undefined, [glob])]) soon(() => compiled.repository(text));
      soon(() => compilePatterns([`a:${glob.replaceAll("/", ".")}`]).tag("a", "a".repeat(128)));
    }
  },
);
