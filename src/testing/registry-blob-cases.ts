import { deepEqual, equal, ok } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { contentChunks } from "../core/content.js";
import { digestOf } from "../core/digest.js";
import type { ByteRange } from "../core/range.js";
import { sameBytes } from "./blob-fixtures.js";
import { refused } from "./contract.js";
import { blobBytes, pushFixtureBlob, type RegistryCapabilities, type RegistryCase, servedValue, valueFrom } from "./registry-fixtures.js";

/** More than is held back until it is verified, and more than is answered from memory. */
const large = 300_000;

export function blobCases(contract: RegistryCase, { ranges }: RegistryCapabilities): void {
  contract("a blob comes back byte by byte, small or large", async ({ registry, seed, at }) => {
    for (const bytes of [randomBytes(1), randomBytes(10_000), randomBytes(65_536), randomBytes(large)]) {
      const { digest } = await pushFixtureBlob(seed, at("app"), bytes);
      const lookup = await registry.getBlob(at("app"), digest);
      equal(servedValue(lookup).descriptor.size, bytes.byteLength);
      equal(valueFrom(lookup).descriptor.digest, digest);
      equal(valueFrom(lookup).range, undefined);
      sameBytes(await blobBytes(lookup), bytes);
    }
  });
  contract("what a blob resolves to is its digest and size", async ({ registry, seed, at }) => {
    const bytes = randomBytes(large);
    const { digest } = await pushFixtureBlob(seed, at("app"), bytes);
    const { digest: resolved, size } = servedValue(await registry.resolveBlob(at("app"), digest));
    deepEqual({ resolved, size }, { resolved: digest, size: large });
  });
  contract("an empty blob is there, and empty", async ({ registry, seed, at }) => {
    const { digest } = await pushFixtureBlob(seed, at("app"), new Uint8Array());
    equal(servedValue(await registry.resolveBlob(at("app"), digest)).size, 0);
    equal((await blobBytes(await registry.getBlob(at("app"), digest))).byteLength, 0);
  });
  contract("an unknown blob is absent, and one of another repository too", async ({ registry, seed, at }) => {
    const { digest } = await pushFixtureBlob(seed, at("one"), randomBytes(100));
    for (const [repository, asked] of [
      ["one", digestOf(Buffer.from("nowhere"))],
      ["two", digest],
      ["one/two", digest],
    ] as const) {
      equal((await registry.resolveBlob(at(repository), asked)).kind, "absent");
      equal((await registry.getBlob(at(repository), asked)).kind, "absent");
    }
  });
  contract("content that nobody opens harms nothing", async ({ registry, seed, at }) => {
    const bytes = randomBytes(large);
    const { digest } = await pushFixtureBlob(seed, at("app"), bytes);
    for (let count = 0; count < 5; count++) servedValue(await registry.getBlob(at("app"), digest));
    sameBytes(await blobBytes(await registry.getBlob(at("app"), digest)), bytes);
  });
  contract("content may be opened after other calls were answered", async ({ registry, seed, at }) => {
    const bytes = randomBytes(large);
    const { digest } = await pushFixtureBlob(seed, at("app"), bytes);
    const late = await registry.getBlob(at("app"), digest);
    sameBytes(await blobBytes(await registry.getBlob(at("app"), digest)), bytes);
    equal((await registry.resolveBlob(at("app"), digest)).kind, "found");
    sameBytes(await blobBytes(late), bytes);
  });
  contract("a reader that leaves early harms nobody", async ({ registry, seed, at }) => {
    const bytes = randomBytes(large);
    const { digest } = await pushFixtureBlob(seed, at("app"), bytes);
    const other = await registry.getBlob(at("app"), digest);
    for await (const chunk of contentChunks(valueFrom(await registry.getBlob(at("app"), digest)).content)) {
      ok(chunk.byteLength > 0);
      break;
    }
    sameBytes(await blobBytes(other), bytes);
    sameBytes(await blobBytes(await registry.getBlob(at("app"), digest)), bytes);
  });
  contract("a redirect is answered only to those who can follow it", async ({ registry, seed, at }) => {
    const bytes = randomBytes(large);
    const { digest } = await pushFixtureBlob(seed, at("app"), bytes);
    ok(valueFrom(await registry.getBlob(at("app"), digest)).content.kind !== "redirect");
    const lookup = await registry.getBlob(at("app"), digest, { redirect: true });
    const { content } = valueFrom(lookup);
    if (content.kind !== "redirect") sameBytes(await blobBytes(lookup), bytes);
    else sameBytes(Buffer.from(await (await fetch(content.url)).arrayBuffer()), bytes);
  });
  rangeCases(contract, ranges);
}

function rangeCases(contract: RegistryCase, honoured: boolean): void {
  const last = large - 1;
  const wanted: readonly (readonly [ByteRange, start: number, end: number])[] = [
    [{ start: 0, end: 0 }, 0, 0],
    [{ start: 10, end: 19 }, 10, 19],
    [{ start: 299_990 }, 299_990, last],
    [{ start: 299_990, end: 900_000 }, 299_990, last],
    [{ start: 0, end: last }, 0, last],
    [{ last: 1 }, last, last],
    [{ last: 70_000 }, 230_000, last],
    [{ last: 900_000 }, 0, last],
  ];
  const what = honoured
    ? "a range is answered by that part"
    : "a range is answered by that part or by the whole, and the answer says which";
  contract(`${what}: to an end, open, from the end, beyond the end`, async ({ registry, seed, at }) => {
    const bytes = randomBytes(large);
    const { digest } = await pushFixtureBlob(seed, at("app"), bytes);
    for (const verify of honoured ? [true] : [true, false]) {
      for (const [range, start, end] of wanted) {
        const lookup = await registry.getBlob(at("app"), digest, { range, verify });
        const { descriptor, range: given } = valueFrom(lookup);
        equal(descriptor.size, large);
        if (honoured || given) deepEqual(given, { start, end, total: large });
        sameBytes(await blobBytes(lookup), given ? bytes.subarray(start, end + 1) : bytes);
      }
    }
  });
  contract("a range of a small blob too", async ({ registry, seed, at }) => {
    const bytes = randomBytes(100);
    const { digest } = await pushFixtureBlob(seed, at("app"), bytes);
    const lookup = await registry.getBlob(at("app"), digest, { range: { start: 10, end: 19 } });
    const { range } = valueFrom(lookup);
    if (honoured || range) deepEqual(range, { start: 10, end: 19, total: 100 });
    sameBytes(await blobBytes(lookup), range ? bytes.subarray(10, 20) : bytes);
  });
  contract("a range outside the blob is RANGE_INVALID", async ({ registry, seed, at }) => {
    const { digest } = await pushFixtureBlob(seed, at("app"), randomBytes(100));
    for (const range of [{ start: 100 }, { start: 100, end: 200 }, { last: 0 }]) {
      await refused(registry.getBlob(at("app"), digest, { range }), "RANGE_INVALID");
    }
  });
  contract("a range of an unknown blob is absent", async ({ registry, seed, at }) => {
    await pushFixtureBlob(seed, at("app"), randomBytes(10));
    equal((await registry.getBlob(at("app"), digestOf(Buffer.from("nowhere")), { range: { start: 5 } })).kind, "absent");
  });
}
