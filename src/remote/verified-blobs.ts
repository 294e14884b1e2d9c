import { Readable } from "node:stream";
import { type Content, contentChunks, wholeBody, withheldTail, withholdTail } from "../core/content.js";
import { algorithmOf, digestOf, Hasher } from "../core/digest.js";
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
    const bytes = () => {
      const hasher = new Hasher(algorithmOf(question.digest));
      const verify = () => {
        if (hasher.digest() !== question.digest) throw wrong();
      };
      return withholdTail(contentChunks(content), { start, end: end + 1 }, verify, (chunk) => hasher.update(chunk));
    };
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
