import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { FileReader } from "../../src/storage/files/file-reader.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

const KiB = 1024;
const content = Buffer.from(Array.from({ length: 2000 * KiB }, (_, index) => (index * 7 + (index >> 8)) % 256));

function reader(range?: { start: number; end: number }): FileReader {
  const path = join(temporaryFolder(), "file");
  writeFileSync(path, content);
  return new FileReader({ paths: () => [path], whole: true, ...(range && { range }) });
}

test("a reader whose consumer waits has read one small piece and no more", async () => {
  const source = reader();
  const chunks: Buffer[] = [];
  source.on("data", (chunk) => {
    chunks.push(chunk);
    source.pause();
  });
  await vi.waitFor(() => expect(chunks.length).toBe(1));
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
  expect([chunks.length, chunks[0]?.byteLength, source.readableLength]).toEqual([1, 64 * KiB, 0]);
  source.destroy();
});

test.each([
  ["in pieces of any size", { start: 0, end: content.byteLength - 1 }, [[64], [512], [64, 512], [128, 512], [100, 300]]],
  ["of a range", { start: 1000, end: 1_900_001 }, [[64, 512], [256], [64, 512]]],
])("the bytes are the same whenever the read size changes (%s)", async (_, range, sizes) => {
  const source = reader(range);
  const chunks: Buffer[] = [];
  let turn = 0;
  source.on("data", (chunk: Buffer) => {
    chunks.push(chunk);
    const [piece = 64, atOnce] = sizes[turn++ % sizes.length] ?? [];
    source.pause();
    source.readSize(piece * KiB, atOnce === undefined ? undefined : atOnce * KiB);
    setImmediate(() => source.resume());
  });
  await new Promise((resolve, reject) => source.on("end", resolve).on("error", reject));
  expect(Buffer.concat(chunks).equals(content.subarray(range.start, range.end + 1))).toBe(true);
});

test("pieces that are read together have memory of their own", async () => {
  const source = reader();
  source.readSize(64 * KiB, 512 * KiB);
  const sizes: number[] = [];
  for await (const chunk of source) sizes.push(chunk.buffer.byteLength);
  expect(Math.max(...sizes)).toBe(64 * KiB);
});
