import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isDigest, parseDigest } from "../../src/core/digest.js";
import { assertPermanentName, isRepositoryName, isTag, parseReference, parseRepositoryName, parseTag } from "../../src/core/name.js";
import { type Duration, type Size, toBytes, toMilliseconds } from "../../src/core/units.js";
import { accepted } from "../fixtures/parsing.js";

const letters = (alphabet: string, maxLength = 12) => fc.string({ unit: fc.constantFrom(...alphabet), maxLength });
const anything = fc.oneof(fc.string(), fc.string({ unit: "binary" }), fc.string({ unit: "binary", minLength: 120, maxLength: 300 }));

/** The grammar of a name, read letter by letter. */
function nameByHand(text: string): boolean {
  return (
    text.length <= 255 &&
    text.split("/").every((segment) => {
      const words = segment.split(/[._-]/).filter((word) => word !== "");
      const separators = segment.split(/[a-z0-9]+/);
      const inside = separators.slice(1, -1);
      return (
        words.length > 0 &&
        words.every((word) => [...word].every((c) => "abcdefghijklmnopqrstuvwxyz0123456789".includes(c))) &&
        separators[0] === "" &&
        separators.at(-1) === "" &&
        inside.every((separator) => [".", "_", "__"].includes(separator) || [...separator].every((c) => c === "-"))
      );
    })
  );
}

describe("names, tags and digests", () => {
  test("a name is what the grammar says, and is given back as it is", () => {
    const nearly = fc
      .array(fc.tuple(fc.constantFrom("a", "0", "a0b"), fc.constantFrom(..."._-/", "__", "___", "--", "---", "..", "//", "._", "A", "")), {
        maxLength: 4,
      })
      .map((parts) => `${parts.flat().join("")}z`);
    const odd = letters("aA0._-/ :\n\0\u0131\u212a");
    const name = fc.oneof({ weight: 3, arbitrary: nearly }, letters("a0._-/"), odd, anything);
    fc.assert(
      fc.property(name, (text) => {
        expect(isRepositoryName(text)).toBe(nameByHand(text));
        const read = accepted(() => parseRepositoryName(text), "NAME_INVALID");
        expect(read?.value).toBe(nameByHand(text) ? text : undefined);
      }),
      { numRuns: 3000 },
    );
    for (const length of [254, 255, 256]) expect(isRepositoryName("a".repeat(length))).toBe(length < 256);
  });

  test("a reference is a tag or a digest, and reads as the same again", () => {
    const digest = fc
      .tuple(fc.constantFrom("sha256", "sha512", "sha384", "md5", "SHA256", ""), letters("0123456789abcdefAg", 130))
      .map(([algorithm, hex]) => `${algorithm}:${hex}`);
    const nearly = fc.tuple(
      fc.constantFrom("sha256:", "sha512:"),
      fc.constantFrom(63, 64, 65, 127, 128, 129),
      fc.constantFrom("a", "0", "F", "g"),
    );
    const reference = fc.oneof(
      letters("aA0._-", 140),
      digest,
      nearly.map(([algorithm, length, c]) => algorithm + c.repeat(length)),
      anything,
    );
    fc.assert(
      fc.property(reference, (text) => {
        const [algorithm, hex] = text.includes(":") ? [text.slice(0, text.indexOf(":")), text.slice(text.indexOf(":") + 1)] : [];
        const size = algorithm === "sha256" ? 64 : algorithm === "sha512" ? 128 : -1;
        const isOne = hex?.length === size && [...hex].every((c) => "0123456789abcdef".includes(c));
        const tagged =
          text.length >= 1 && text.length <= 128 && [...text].every((c) => /[a-zA-Z0-9._-]/.test(c)) && !".-".includes(text[0] ?? "");
        expect([isDigest(text), isTag(text)]).toEqual([isOne, tagged]);
        const expected = isOne ? { kind: "digest", digest: text } : tagged ? { kind: "tag", tag: text } : undefined;
        expect(accepted(() => parseReference(text), text.includes(":") ? "DIGEST_INVALID" : "MANIFEST_INVALID")?.value).toEqual(expected);
        expect(accepted(() => parseDigest(text), "DIGEST_INVALID")?.value).toBe(isOne ? text : undefined);
        expect(accepted(() => parseTag(text), "MANIFEST_INVALID")?.value).toBe(tagged ? text : undefined);
      }),
      { numRuns: 3000 },
    );
  });

  test("a permanent name is refused only as NAME_INVALID", () => {
    fc.assert(
      fc.property(fc.oneof(letters("a0.-_/A"), anything), (text) => {
        const read = accepted(() => assertPermanentName(text, "registry"), "NAME_INVALID");
        expect(read !== undefined).toBe(/^[a-z0-9.-]+$/.test(text) && !/^[.-]|[.-]$|[.-]{2}/.test(text) && !text.endsWith("\n"));
      }),
    );
  });
});

test("a unit is a finite number or an error, whatever plain JavaScript passes", () => {
  const inherited = Object.getOwnPropertyNames(Object.prototype);
  const unit = fc.oneof(
    fc.constantFrom("ms", "s", "m", "h", "d", "B", "KiB", "MiB", "GiB", "TiB", "S", "kib", "", ...inherited),
    // One that begins with a digit would belong to the number.
    fc.string().filter((text) => !/^[\d.]/.test(text)),
  );
  const number = fc.oneof(
    fc.nat().map(String),
    fc.double({ min: 0, max: 1e6, noNaN: true }).map(String),
    fc.constantFrom("", "-1", "1e3", ".5", "1.", "0x10", "\u0661", "9".repeat(400)),
  );
  const units: Record<string, [typeof toMilliseconds | typeof toBytes, number]> = {
    ms: [toMilliseconds, 1],
    s: [toMilliseconds, 1000],
    m: [toMilliseconds, 60_000],
    h: [toMilliseconds, 3_600_000],
    d: [toMilliseconds, 86_400_000],
    B: [toBytes, 1],
    KiB: [toBytes, 1024],
    MiB: [toBytes, 1024 ** 2],
    GiB: [toBytes, 1024 ** 3],
    TiB: [toBytes, 1024 ** 4],
  };
  fc.assert(
    fc.property(number, unit, (amount, name) => {
      for (const parse of [toMilliseconds, toBytes]) {
        const read = accepted(() => parse(`${amount}${name}` as Duration & Size), "UNKNOWN");
        if (!read) continue;
        const [of, factor] = Object.hasOwn(units, name) ? (units[name] ?? []) : [];
        expect([amount, name, Number.isFinite(read.value)]).toEqual([amount, name, true]);
        expect([of, read.value]).toEqual([
          parse,
          parse === toBytes ? Math.floor(Number(amount) * (factor ?? 0)) : Number(amount) * (factor ?? 0),
        ]);
      }
    }),
    { numRuns: 3000 },
  );
});
