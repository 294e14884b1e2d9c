import fc from "fast-check";
import { localRegistry, type Registry } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, test } from "vitest";
import { accessPolicy } from "../../src/access/policy.js";
import { noEvents } from "../../src/core/events.js";
import { dispatch } from "../../src/http/dispatch.js";
import { addWarnings, entityTags, isFresh, parseRanges, resolveRanges } from "../../src/http/headers.js";
import { clientAddress, forwardedPrefix } from "../../src/http/public-url.js";
import { parseUploadRange, uploadRange } from "../../src/http/uploads.js";
import { accepted, printable, soon } from "../fixtures/parsing.js";

const digest = (n: number) => `sha256:${String(n).padStart(64, "0")}`;
const noise = (special: string) => fc.string({ unit: fc.constantFrom(...printable(special)), maxLength: 40 });

describe("ranges", () => {
  const total = 40;
  const part = fc.oneof(
    fc.tuple(fc.nat(50), fc.nat(50)).map(([start, end]) => ({ text: `${start}-${end}`, start, end })),
    fc.nat(50).map((start) => ({ text: `${start}-`, start, end: Number.POSITIVE_INFINITY })),
    fc.nat(50).map((last) => ({ text: `-${last}`, start: last === 0 ? 99 : Math.max(0, total - last), end: Number.POSITIVE_INFINITY })),
  );

  test("are the bytes that they name, each once", () => {
    fc.assert(
      fc.property(fc.array(part, { minLength: 1, maxLength: 6 }), fc.constantFrom(",", ", ", " ,\t"), (parts, comma) => {
        const header = `bytes=${parts.map(({ text }) => text).join(comma)}`;
        const read = parseRanges(header);
        expect(read).toHaveLength(parts.length);
        const named = parts.map(({ start, end }) => Array.from({ length: total }, (_, at) => at).filter((at) => at >= start && at <= end));
        const there = named.filter((bytes) => bytes.length > 0);
        const resolved = accepted(() => resolveRanges(read ?? [], total), "RANGE_INVALID");
        const twice = there.flat().length !== new Set(there.flat()).size;
        const expected = there.map((bytes) => ({ start: bytes[0], end: bytes.at(-1), total }));
        expect(resolved?.value).toEqual(there.length === 0 ? undefined : twice ? "whole" : expected);
      }),
      { numRuns: 2000 },
    );
  });

  test("of an upload read as they are written, and nothing else is one", () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.maxSafeNat(), noise("-0123456789"), (a, b, text) => {
        const range = parseUploadRange(`${a}-${b}`);
        expect(range).toEqual(a <= b ? { start: a, length: b - a + 1 } : undefined);
        const read = parseUploadRange(text);
        expect(read !== undefined).toBe(/^[0-9]+-[0-9]+$/.test(text) && Number(text.split("-")[0]) <= Number(text.split("-")[1]));
        if (a > 0) expect(parseUploadRange(uploadRange(a))).toEqual({ start: 0, length: a });
      }),
    );
  });
});

test("entity tags read as they are written", () => {
  const tag = fc.record({ weak: fc.boolean(), value: fc.nat(9).map(digest), bare: fc.boolean() });
  fc.assert(
    fc.property(fc.array(tag, { minLength: 1, maxLength: 5 }), fc.constantFrom(",", ", ", " ,\t"), fc.nat(9), (tags, comma, n) => {
      const header = tags.map(({ weak, value, bare }) => (bare ? value : `${weak ? "W/" : ""}"${value}"`)).join(comma);
      expect(entityTags(header, "weak")).toEqual(tags.map(({ value }) => value));
      expect(entityTags(header, "strong")).toEqual(tags.filter(({ weak, bare }) => bare || !weak).map(({ value }) => value));
      expect(isFresh(header, digest(n))).toBe(tags.some(({ value }) => value === digest(n)));
      expect([isFresh("*", digest(n)), isFresh(undefined, digest(n))]).toEqual([true, false]);
    }),
  );
});

test("warnings are lines of plain text, 4096 bytes in all", () => {
  const warning = fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom("a\r\nSet-Cookie: x", '"\\', "x".repeat(3000), '"'.repeat(2100)));
  fc.assert(
    fc.property(fc.array(warning, { maxLength: 6 }), (warnings) => {
      const headers: Record<string, string | string[]> = {};
      addWarnings(headers, warnings);
      const lines = [headers.Warning ?? []].flat();
      for (const line of lines) expect(line).toMatch(/^299 - "(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"$/);
      expect(lines.join("").length).toBeLessThanOrEqual(4096);
      // As many as fit: the first that is left out would not have.
      const next = warnings[lines.length];
      if (next !== undefined) expect(lines.join("").length + 2 * next.length + 9).toBeGreaterThan(4096);
    }),
  );
});

describe("query strings", () => {
  const tags = ["a", "b", "b.1", "c", "d_", "e-"];
  const manifest = Buffer.from('{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}');
  const filled = async (): Promise<Registry> => {
    const registry = localRegistry({ storage: memoryStorage(), name: "test" });
    for (const tag of tags) await registry.putManifest("app", tag, { bytes: manifest });
    return registry;
  };
  const { signal } = new AbortController();
  const get = async (registry: Registry, target: string) => {
    const site = {
      registry,
      policy: accessPolicy({}),
      events: noEvents,
      now: () => 0,
      redirects: false,
      cacheStatus: false,
      trustsPeer: () => false,
      topology: () => false,
    };
    const body = { async *[Symbol.asyncIterator]() {} };
    return dispatch(site, { method: "GET", target, header: () => undefined, body, bodyLength: 0, signal });
  };
  const bodyOf = ({ body }: Awaited<ReturnType<typeof get>>) =>
    JSON.parse(body?.kind === "bytes" ? Buffer.from(body.bytes).toString() : "null") as unknown;

  test("page through a listing, whatever else is in them", async () => {
    const registry = await filled();
    const extra = fc.array(fc.tuple(noise("&=%+#"), noise("&=%+\r\n\u0000")), { maxLength: 2 });
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 8 }), fc.constantFrom("", ...tags, "az", "zz"), extra, async (n, last, more) => {
        const parameters = new URLSearchParams([
          ...more.filter(([name]) => !["n", "last", "ns"].includes(name)),
          ["n", String(n)],
          ...(last === "" ? [] : [["last", last]]),
        ] as [string, string][]);
        const listed: string[] = [];
        let target: string | undefined = `/v2/app/tags/list?${parameters}`;
        for (let pages = 0; target !== undefined; pages++) {
          expect(pages).toBeLessThan(10);
          const response = await get(registry, target);
          expect(response.status).toBe(200);
          const page = bodyOf(response) as { name: string; tags: string[] };
          expect([page.name, page.tags.length <= n]).toEqual(["app", true]);
          listed.push(...page.tags);
          const link = response.headers.Link;
          target =
            typeof link === "string" ? /^<(\/v2\/app\/tags\/list\?[\x21-\x3b\x3d\x3f-\x7e]+)>; rel="next"$/.exec(link)?.[1] : undefined;
          expect(target === undefined).toBe(link === undefined);
        }
        expect(listed).toEqual(tags.filter((tag) => tag > last));
      }),
    );
  });

  test("of any kind are answered, and never by a fault", async () => {
    const registry = await filled();
    const query = fc.oneof(
      fc
        .array(fc.tuple(fc.constantFrom("n", "last", "ns", "artifactType", "digest", "tag", "mount", "from"), noise("0123456789%&")), {
          maxLength: 4,
        })
        .map((all) => all.map((pair) => pair.join("=")).join("&")),
      noise("n=&%"),
    );
    const path = fc.constantFrom(
      "/v2/app/tags/list",
      "/v2/_catalog",
      "/v2/app/manifests/a",
      `/v2/app/blobs/${digest(1)}`,
      `/v2/app/referrers/${digest(1)}`,
      "/v2/",
    );
    await fc.assert(
      fc.asyncProperty(path, query, async (path, query) => {
        const response = await get(registry, `${path}?${query}`);
        expect([200, 400, 404]).toContain(response.status);
        const n = new URLSearchParams(query).get("n");
        if (/list|catalog|referrers/.test(path) && n !== null && !/^\d+$/.test(n)) expect(response.status).toBe(400);
        for (const value of Object.values(response.headers).flat()) expect(value).toMatch(/^[\x20-\x7e]*$/);
        if (response.status !== 200) expect(bodyOf(response)).toEqual({ errors: [expect.objectContaining({ code: expect.any(String) })] });
      }),
      { numRuns: 1000 },
    );
  });
});

// 16 KiB of header is what Node lets through, from anybody.
test.each([" ", "\t", "a", "0", "-", "0-", " -", ",", '"', 'W/"', '" ', "W/", "1, ", "for=", 'for="', "\\", ";", "[", ":", "/a", "/."])(
  "16 KiB of %j in a header are read soon",
  (piece) => {
    const long = piece.repeat(16_000 / piece.length);
    for (const end of ["", "x", '"', '"x"y', " x y", "-x", "@"]) {
      const header = (name: string) => (name === "x-forwarded-prefix" || name === "forwarded" ? long + end : undefined);
      soon(() => entityTags(`x,${long}${end}`, "weak"));
      soon(() => isFresh(`W/"${long}${end}`, digest(1)));
      for (const start of ["bytes=", "bytes=0", "bytes=0-"]) soon(() => parseRanges(`${start}${long}${end}`));
      soon(() => parseUploadRange(long + end));
      soon(() => forwardedPrefix(header));
      soon(() => clientAddress("127.0.0.1", header, () => true));
    }
  },
);
