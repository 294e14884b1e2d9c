import { Readable } from "node:stream";
import { type Content, contentChunks, wholeBody, withheldTail } from "../core/content.js";
import { algorithmOf, type Digest, digestOf, Hasher } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import type { Lookup } from "../core/lookup.js";
import { type ResolvedRange, resolveRange } from "../core/range.js";
import type { BlobContent } from "../core/registry.js";
import { type BlobQuestion, type BlobWish, getRemoteBlob } from "./blobs.js";
import { failureOfError } from "./failures.js";
import type { Upstream } from "./upstream.js";

/**
 * The blob, or a part of it, whose end does not come before the whole is verified. So a part costs the upstream the whole blob; who reads many parts puts a
 * cache in between.
 * @throws RegistryError RANGE_INVALID when the range lies outside the blob.
 */
export async function getVerifiedBlob(
  upstream: Upstream,
  question: BlobQuestion,
  { range, ...known }: BlobWish,
): Promise<Lookup<BlobContent>> {
  const lookup = await getRemoteBlob(upstream, question, known);
  if (lookup.kind !== "found") return lookup;
  const { descriptor, content, unsized } = lookup.value;
  const { size } = descriptor;
  let part: ResolvedRange | undefined;
  try {
    part = unsized ? undefined : range && resolveRange(range, size);
  } catch (error) {
    if (content.kind === "stream") content.open().destroy();
    throw error;
  }
  const wrong = () => new RegistryError("UNAVAILABLE", `${upstream.name}: the upstream sent other bytes than ${question.digest}`);
  const answer = (given: Content): Lookup<BlobContent> => ({
    ...lookup,
    value: { descriptor, content: given, ...(part && { range: part }), ...(unsized && { unsized }) },
  });
  const { start, end } = part ?? { start: 0, end: unsized ? Number.POSITIVE_INFINITY : size - 1 };
  if (unsized || size > withheldTail) {
    const bytes = () => verified(contentChunks(content), question.digest, { start, end: end + 1 }, wrong);
    return answer({ kind: "stream", open: () => Readable.from(bytes(), { objectMode: false, highWaterMark: 0 }) });
  }
  try {
    const bytes = await wholeBody(contentChunks(content), withheldTail, wrong);
    if (digestOf(bytes, algorithmOf(question.digest)) !== question.digest) throw wrong();
    return answer({ kind: "bytes", bytes: bytes.subarray(start, end + 1) });
  } catch (error) {
    return failureOfError(error, upstream.name, question.signal);
  }
}

/** The bytes from `start` to before `end`, as they come, but the last of them. */
async function* verified(
  source: AsyncIterable<Uint8Array>,
  digest: Digest,
  { start, end }: { start: number; end: number },
  wrong: () => RegistryError,
): AsyncGenerator<Uint8Array> {
  const hasher = new Hasher(algorithmOf(digest));
  const held: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of source) {
    const at = hasher.size;
    hasher.update(chunk);
    const part = chunk.subarray(Math.max(0, start - at), Math.max(0, end - at));
    if (part.byteLength === 0) continue;
    held.push(part);
    size += part.byteLength;
    while (size - (held[0]?.byteLength ?? 0) >= withheldTail) {
      const first = held.shift();
      if (!first) break;
      size -= first.byteLength;
      yield first;
    }
  }
  if (hasher.digest() !== digest) throw wrong();
  yield* held;
}
