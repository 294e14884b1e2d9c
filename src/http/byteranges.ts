import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { contentChunks } from "../core/content.js";
import { mediaTypes } from "../core/media-types.js";
import type { ResolvedRange } from "../core/range.js";
import type { BlobContent } from "../core/registry.js";
import type { WireBody } from "./exchange.js";

/** Several parts of a blob as one body. (RFC 9110 section 14.6) */
export interface MultipartBody {
  readonly contentType: string;
  readonly body: Extract<WireBody, { kind: "stream" }>;
}

/**
 * @param first the content of the first part, which the caller has in hand already.
 * @param part asks for the content of another part; called when the one before it is sent.
 */
export function multipartBody(
  ranges: readonly ResolvedRange[],
  first: BlobContent,
  part: (range: ResolvedRange) => Promise<BlobContent>,
): MultipartBody {
  const boundary = randomBytes(16).toString("hex");
  const head = ({ start, end, total }: ResolvedRange) =>
    `\r\n--${boundary}\r\nContent-Type: ${mediaTypes.octetStream}\r\nContent-Range: bytes ${start}-${end}/${total}\r\n\r\n`;
  const tail = `\r\n--${boundary}--\r\n`;
  const size = ranges.reduce((sum, range) => sum + head(range).length + range.end - range.start + 1, tail.length);
  async function* parts(): AsyncGenerator<Uint8Array> {
    for (const [index, range] of ranges.entries()) {
      yield Buffer.from(head(range));
      const { content } = index === 0 ? first : await part(range);
      // In the store's own small pieces: a client may stop reading at each of them.
      yield* content.kind === "stream" ? content.open() : contentChunks(content);
    }
    yield Buffer.from(tail);
  }
  return {
    contentType: `multipart/byteranges; boundary=${boundary}`,
    body: { kind: "stream", size, open: () => Readable.from(parts(), { objectMode: false, highWaterMark: 0 }) },
  };
}
