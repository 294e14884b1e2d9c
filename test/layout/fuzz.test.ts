import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { isRegistryError, mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { importLayout } from "oci-manifold/layout";
import { expect, test } from "vitest";
import { makeImage, makeIndex } from "../fixtures/images.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { contentsOf, layoutOf, local, named, type TarEntry, tarBytes, writeChecksum } from "./support.js";

const images = [makeImage([600, 0]), makeImage([3000])];
const index = makeIndex(images);
const files = layoutOf(images, [named(index.bytes, "1", mediaTypes.ociIndex)], [index.bytes]);
const archive = await tarBytes([...files].map(([name, bytes]): TarEntry => [{ name }, bytes]));
const path = join(temporaryFolder(), "fuzzed.tar");

const known = new Set([...images.flatMap(({ digest, blobs }) => [digest, ...blobs.keys()]), index.digest]);

/** Imports whatever these bytes are: it goes in right, or is refused with an error of this library. */
async function survives(bytes: Uint8Array): Promise<"imported" | "refused"> {
  writeFileSync(path, bytes);
  const registry = local("release");
  const outcome = await importLayout(registry, path, { repository: "app" }).then(
    () => "imported" as const,
    (error: unknown) => {
      if (!isRegistryError(error)) throw error;
      expect(error.message).toContain(path);
      return "refused" as const;
    },
  );
  const contents = await contentsOf(registry, "app");
  for (const [key, value] of Object.entries(contents)) {
    const [kind, digest = ""] = key.split(" ");
    if (kind === "tag") continue;
    const stored = Buffer.from(value.split(" ").at(-1) ?? "", "base64");
    expect(digestOf(stored)).toBe(digest);
    expect(known).toContain(digest);
  }
  // No tag leads to what is not whole.
  const whole = [...known].every((digest) => `blob ${digest}` in contents || `manifest ${digest}` in contents);
  if (Object.keys(contents).some((key) => key.startsWith("tag "))) expect(whole).toBe(true);
  return outcome;
}

test("the archive that is changed here is right", async () => {
  expect(await survives(archive)).toBe("imported");
});

test("an archive with any bytes changed goes in right, or is refused", async () => {
  const change = fc.record({ at: fc.nat(archive.byteLength - 1), byte: fc.nat(255) });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async (changes) => {
      const bytes = Buffer.from(archive);
      for (const { at, byte } of changes) bytes[at] = byte;
      await survives(bytes);
    }),
    { numRuns: 100 },
  );
});

test("an archive with any header changed goes in right, or is refused", async () => {
  const starts: number[] = [];
  for (let at = 0; at < archive.byteLength - 1024; at += 512)
    if (archive.subarray(at + 257, at + 262).toString() === "ustar") starts.push(at);
  const change = fc.record({
    start: fc.constantFrom(...starts),
    // Those of its size and its type decide most.
    at: fc.oneof(fc.nat(511), fc.constantFrom(124, 156)),
    byte: fc.oneof(fc.nat(255), fc.constantFrom(0x30, 0x37, 0x67, 0x78, 0x80, 0xff)),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
      const bytes = Buffer.from(archive);
      for (const { start, at, byte } of changes) {
        bytes[start + at] = byte;
        writeChecksum(bytes.subarray(start, start + 512));
      }
      await survives(bytes);
    }),
    { numRuns: 120 },
  );
});

test("an archive that is cut, or parts of which are elsewhere, goes in right, or is refused", async () => {
  const blocks = archive.byteLength / 512;
  await fc.assert(
    fc.asyncProperty(fc.nat(blocks), fc.nat(blocks), fc.nat(blocks), async (a, b, to) => {
      const part = archive.subarray(Math.min(a, b) * 512, Math.max(a, b) * 512);
      const rest = Buffer.concat([archive.subarray(0, Math.min(a, b) * 512), archive.subarray(Math.max(a, b) * 512)]);
      await survives(rest);
      await survives(Buffer.concat([rest.subarray(0, to * 512), part, rest.subarray(to * 512)]));
    }),
    { numRuns: 40 },
  );
});
