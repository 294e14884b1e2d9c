import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { type WantedBytes, withheldTail, withholdTail } from "../../src/core/content.js";

const whole = randomBytes(5 * withheldTail + 123);

async function* chunked(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size);
}

/** What goes out before and after the bytes are verified. */
async function out(wanted: WantedBytes, size: number, chunks = chunked(whole.subarray(wanted.from ?? 0), size)) {
  let verified = false;
  const [early, late]: [Uint8Array[], Uint8Array[]] = [[], []];
  const verify = () => {
    verified = true;
  };
  for await (const chunk of withholdTail(chunks, wanted, verify)) (verified ? late : early).push(chunk);
  return { bytes: Buffer.concat([...early, ...late]), early: Buffer.concat(early), late: Buffer.concat(late) };
}

test.each([1000, withheldTail, 3 * withheldTail])("chunks of %i bytes come whole, the last 64 KiB after the check", async (size) => {
  const { bytes, late } = await out({ start: 0, end: Number.POSITIVE_INFINITY }, size);
  expect(bytes.equals(whole)).toBe(true);
  expect(late.byteLength).toBeGreaterThanOrEqual(withheldTail);
});

test("of a part the tail waits too, until the whole has come", async () => {
  const [start, end] = [withheldTail + 7, 4 * withheldTail + 7];
  const { bytes, early, late } = await out({ start, end }, 1000);
  expect(bytes.equals(whole.subarray(start, end))).toBe(true);
  expect(early.byteLength).toBeGreaterThan(0);
  expect(late.byteLength).toBeGreaterThanOrEqual(withheldTail);
});

test("what is here already goes before the chunks", async () => {
  const from = 2 * withheldTail;
  const { bytes } = await out({ start: 10, end: whole.byteLength, from, before: [whole.subarray(10, from)] }, 1000);
  expect(bytes.equals(whole.subarray(10))).toBe(true);
});

test("nothing of the tail goes out where the check throws", async () => {
  const sent: Uint8Array[] = [];
  const wrong = async () => {
    const verify = () => {
      throw new Error("other bytes");
    };
    for await (const chunk of withholdTail(chunked(whole, 1000), { start: 0, end: whole.byteLength }, verify)) sent.push(chunk);
  };
  await expect(wrong()).rejects.toThrow("other bytes");
  expect(Buffer.concat(sent).byteLength).toBeLessThanOrEqual(whole.byteLength - withheldTail);
});
