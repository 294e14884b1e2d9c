import { Readable } from "node:stream";
import { collect, contentChunks, heldBack } from "../core/content.js";
import { algorithmOf, type Digest, digestOf, Hasher } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import type { Lookup } from "../core/lookup.js";
import { type ByteRange, resolveRange } from "../core/range.js";
import type { BlobContent } from "../core/registry.js";
import { type BlobQuestion, getBlob } from "./blobs.js";
import { failureOfError } from "./failures.js";
import type { Upstream } from "./upstream.js";

/**
 * The whole blob, whose end does not come before all of it is verified.
 * @throws RegistryError RANGE_INVALID when the range, which is not honoured otherwise, lies outside the blob.
 */
export async function getVerifiedBlob(
  upstream: Upstream,
  question: BlobQuestion,
  range: ByteRange | undefined,
): Promise<Lookup<BlobContent>> {
  const lookup = await getBlob(upstream, question, undefined);
  if (lookup.kind !== "found") return lookup;
  const { descriptor, content } = lookup.value;
  try {
    if (range) resolveRange(range, descriptor.size);
  } catch (error) {
    if (content.kind === "stream") content.open().destroy();
    throw error;
  }
  const wrong = () => new RegistryError("UNAVAILABLE", `${upstream.name}: the upstream sent other bytes than ${question.digest}`);
  if (descriptor.size > heldBack) {
    const open = () => Readable.from(verified(contentChunks(content), question.digest, wrong), { objectMode: false });
    return { ...lookup, value: { descriptor, content: { kind: "stream", open } } };
  }
  try {
    const bytes = await collect(contentChunks(content), heldBack, wrong);
    if (digestOf(bytes, algorithmOf(question.digest)) !== question.digest) throw wrong();
    return { ...lookup, value: { descriptor, content: { kind: "bytes", bytes } } };
  } catch (error) {
    return failureOfError(error, upstream.name, question.signal);
  }
}

async function* verified(source: AsyncIterable<Uint8Array>, digest: Digest, wrong: () => RegistryError): AsyncGenerator<Uint8Array> {
  const hasher = new Hasher(algorithmOf(digest));
  const held: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of source) {
    hasher.update(chunk);
    held.push(chunk);
    size += chunk.byteLength;
    while (size - (held[0]?.byteLength ?? 0) >= heldBack) {
      const first = held.shift();
      if (!first) break;
      size -= first.byteLength;
      yield first;
    }
  }
  if (hasher.digest() !== digest) throw wrong();
  yield* held;
}
