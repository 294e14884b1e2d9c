import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { digestOf, isDigest } from "../../src/core/digest.js";
import { detectMediaType, parseManifest } from "../../src/core/manifest.js";
import { isMediaType, mediaTypes } from "../../src/core/media-types.js";
import { accepted, soon } from "../fixtures/parsing.js";

describe("manifests", () => {
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom("a/b", "application/x", "a/b; c=d", ...Object.values(mediaTypes), "\ud800", "__proto__"),
  );
  const digest = fc.oneof(
    { weight: 5, arbitrary: fc.nat(9).map((n) => digestOf(Buffer.from(String(n)))) },
    { weight: 1, arbitrary: fc.string() },
  );
  const size = fc.oneof(
    { weight: 5, arbitrary: fc.nat() },
    { weight: 1, arbitrary: fc.constantFrom(-1, 0.5, 2 ** 53, Number.MAX_SAFE_INTEGER, "1", null) },
  );
  const key = fc.oneof(fc.string(), fc.constantFrom("__proto__", "constructor", "prototype", "toString", "polluted"));
  // As pairs: an object of ours could not hold a `__proto__` of its own, and no key twice.
  const pairs = (value: fc.Arbitrary<string>) =>
    fc
      .array(fc.tuple(key, value), { maxLength: 4 })
      .map((all) => `{${all.map(([name, json]) => `${JSON.stringify(name)}:${json}`).join(",")}}`);
  const json = (value: fc.Arbitrary<unknown>) => value.map((one) => JSON.stringify(one));
  const annotations = pairs(
    fc.oneof({ weight: 6, arbitrary: json(fc.string({ unit: "binary" })) }, { weight: 1, arbitrary: fc.constant('{"polluted":1}') }),
  );
  const fields = (known: Record<string, fc.Arbitrary<string>>) =>
    fc
      .tuple(
        fc.record(known, { requiredKeys: [] }),
        fc.array(fc.tuple(key, fc.oneof(json(fc.jsonValue()), fc.constant("1e999"))), { maxLength: 2 }),
      )
      .map(([all, more]) => `{${[...Object.entries(all), ...more].map(([name, value]) => `${JSON.stringify(name)}:${value}`).join(",")}}`);
  const descriptor = fields({
    mediaType: json(fc.constantFrom("application/x", mediaTypes.ociManifest)),
    digest: json(digest),
    size: json(size),
    annotations,
    platform: pairs(json(fc.oneof(fc.string(), fc.array(fc.string())))),
  });
  const whole = fc
    .tuple(fc.nat(9), fc.nat(), annotations)
    .map(
      ([n, size, all]) =>
        `{"mediaType":"application/x","digest":"${digestOf(Buffer.from(String(n)))}","size":${size},"annotations":${all}}`,
    );
  const part = fc.oneof({ weight: 4, arbitrary: whole }, { weight: 1, arbitrary: descriptor });
  const list = fc.array(part, { maxLength: 3 }).map((all) => `[${all.join(",")}]`);
  // An image with children is refused, however well-formed.
  const mostlyNone = fc.oneof({ weight: 1, arbitrary: list }, { weight: 9, arbitrary: fc.constantFrom("[]", "null") });
  const manifest = fields({
    schemaVersion: fc.constantFrom(..."222222", "2.0", "1", "null"),
    mediaType: json(fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...Object.values(mediaTypes)) }, text)),
    config: part,
    layers: list,
    manifests: mostlyNone,
    blobs: list,
    subject: fc.oneof(part, fc.constant("null")),
    artifactType: json(fc.oneof({ weight: 3, arbitrary: fc.constant("a/b; c=d") }, text)),
    annotations,
  });
  const sent = fc.oneof(
    { weight: 4, arbitrary: fc.constant(undefined) },
    { weight: 1, arbitrary: fc.oneof(fc.constantFrom(...Object.values(mediaTypes)), fc.string()) },
  );
  const untouched = JSON.stringify(Object.getOwnPropertyNames(Object.prototype));

  const check = (bytes: Uint8Array, type: string | undefined) => {
    const read = accepted(() => parseManifest(bytes, type), "MANIFEST_INVALID");
    expect(JSON.stringify(Object.getOwnPropertyNames(Object.prototype))).toBe(untouched);
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
    if (!read) return false;
    const { value } = read;
    expect(parseManifest(bytes, value.mediaType)).toEqual(value);
    expect(parseManifest(Buffer.from(JSON.stringify(JSON.parse(new TextDecoder().decode(bytes)))), value.mediaType)).toEqual(value);
    if (type === undefined) expect(detectMediaType(bytes)).toBe(value.mediaType);
    for (const { mediaType, digest, size } of [value.config, value.subject, ...value.layers, ...value.children].flatMap(
      (one) => one ?? [],
    )) {
      expect([isMediaType(mediaType), isDigest(digest), Number.isSafeInteger(size) && size >= 0]).toEqual([true, true, true]);
    }
    for (const all of [value, ...value.layers, ...value.children]) {
      for (const [, one] of Object.entries(all.annotations ?? {})) expect(typeof one).toBe("string");
    }
    return true;
  };

  test("any is read or refused, reads as the same again, and touches no prototype", () => {
    let kept = 0;
    fc.assert(
      fc.property(manifest, sent, (text, type) => {
        if (check(Buffer.from(text), type)) kept++;
      }),
      { numRuns: 2000 },
    );
    // What is refused alone would prove little.
    expect(kept).toBeGreaterThan(100);
  });

  test("cut off anywhere, with bytes changed, or any bytes at all", () => {
    fc.assert(
      fc.property(manifest, fc.nat(), fc.nat(255), fc.boolean(), (text, at, byte, cut) => {
        const bytes = Buffer.from(text);
        const place = at % bytes.byteLength;
        if (!cut) bytes[place] = byte;
        check(cut ? bytes.subarray(0, place) : bytes, undefined);
        if (cut) expect(detectMediaType(bytes.subarray(0, place))).toBeUndefined();
      }),
      { numRuns: 1000 },
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void check(bytes, mediaTypes.ociIndex)));
  });

  test.each(["[", '{"a":', '[{"a":[', '"\\"",[', '{"annotations":{"\\\\":[', "]["])("millions of %s end soon", (piece) => {
    const bytes = Buffer.from(`{"manifests":[],"x":${piece.repeat(Math.floor(4_000_000 / piece.length / (piece.length > 1 ? 1 : 2)))}`);
    expect(soon(() => accepted(() => parseManifest(bytes), "MANIFEST_INVALID"))).toBeUndefined();
  });

  test("of a key that is there twice, the last counts", () => {
    const [one, two] = [digestOf(Buffer.from("1")), digestOf(Buffer.from("2"))];
    const child = (digest: string) => `{"mediaType":"a/b","digest":"${digest}","digest":"${two}","size":1}`;
    const read = parseManifest(Buffer.from(`{"manifests":7,"manifests":[${child(one)}],"annotations":{"a":"1","a":"2"}}`));
    expect([read.children[0]?.digest, read.annotations]).toEqual([two, { a: "2" }]);
  });

  test.each([
    ["one end", "a/b"],
    ["parameters that are spaces", `a/b${` ;  ${" ".repeat(196)}`.repeat(8)}`],
    ["too many parameters", `a/b${" ; ".repeat(9)}`],
    ["no end to its name", `${"a".repeat(60_000)}/`],
    ["nothing but semicolons", `a/b${";".repeat(60_000)}`],
  ])("a media type with %s is judged soon", (_, text) => {
    expect(soon(() => isMediaType(`${text}\n`))).toBe(false);
  });
});
