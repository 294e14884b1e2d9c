import { type Clock, pause } from "../../core/clock.js";
import { type Content, contentChunks } from "../../core/content.js";
import type { Hasher } from "../../core/digest.js";
import { isRegistryError, RegistryError } from "../../core/errors.js";
import type { Lookup } from "../../core/lookup.js";
import { onAbort } from "../../core/on-abort.js";
import type { ByteRange } from "../../core/range.js";
import type { BlobContent } from "../../core/registry.js";

/** One way to a blob's bytes. */
export interface TransferSource {
  /** @param signal ends the call, and the content that it gave. */
  ask(range: ByteRange | undefined, signal: AbortSignal): Promise<Lookup<BlobContent>>;
}

interface TransferOptions {
  /** In the order in which they are tried. Those that gave bytes are added to `used`. */
  readonly sources: readonly TransferSource[];
  readonly used: Set<TransferSource>;
  /** What the first source answered already, from the first wanted byte on. */
  readonly first?: Content;
  /** The first byte wanted. */
  readonly from: number;
  /** Absent: nobody said how large the blob is; the transfer ends where the source does. */
  readonly size: number | undefined;
  /** Has seen all bytes before `from`, and sees those that come. */
  readonly hasher: Hasher;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** Tries of one source in a row that bring no byte; then the next source is asked. */
const attempts = 3;
/** In all, so that a source that gives one byte at a time does not keep a transfer going for ever. */
const resumptions = 30;
const firstPause = 200;
const longestPause = 10_000;

/** A source gave bytes that cannot be the blob's. */
export class WrongBytes extends RegistryError {
  constructor(message: string) {
    super("UNAVAILABLE", message);
  }
}

/** The content that a source gives. */
interface Given {
  readonly content: Content;
  /** Bytes at the front that are here already, where the source gives the whole instead of a part. */
  readonly skip: number;
  /** The whole blob's, where the source says it. */
  readonly total: number | undefined;
}

/** The bytes of a blob, in order, from whichever source gives them: a transfer that breaks off is resumed where it ended. */
export async function* transferred(o: TransferOptions): AsyncGenerator<Uint8Array> {
  const sources = [...o.sources];
  let { size } = o;
  let position = o.from;
  let given: Given | undefined = o.first && { content: o.first, skip: 0, total: size };
  let failure: unknown;
  let inVain = 0;
  if (!given && position > 0 && position === size) return;
  for (let tries = 0; tries <= resumptions; tries++) {
    const [source] = sources;
    if (!source) break;
    let useless = false;
    try {
      given ??= await reopened(source, position, size, o.signal);
      useless = given === undefined;
      size ??= given?.total;
      for await (const chunk of given ? contentOf(given, o.signal) : []) {
        o.used.add(source);
        o.hasher.update(chunk);
        position += chunk.byteLength;
        if (size !== undefined && position > size) throw new WrongBytes(`the source sent more than the ${size} bytes it has`);
        inVain = 0;
        yield chunk;
      }
      if (given && size === undefined) return;
      if (given) failure = new RegistryError("UNAVAILABLE", `the source sent ${position} of ${size} bytes`);
    } catch (error) {
      if (o.signal.aborted) throw o.signal.reason;
      if (error instanceof WrongBytes) throw error;
      const end = endOf(error);
      // Cut behind the last byte, before an end that nobody had announced.
      if (size === undefined && end === position) return;
      useless = end !== undefined;
      // Not as it is: the client's own range may be a good one.
      failure = useless ? new RegistryError("UNAVAILABLE", `the source says that the blob ends before byte ${position}`) : error;
    }
    // Also when it was cut behind the last byte.
    if (position === size) return;
    given = undefined;
    if (useless || ++inVain >= attempts) {
      inVain = 0;
      sources.shift();
    } else {
      await pause(o.clock, pauseAfter(inVain, failure), o.signal);
    }
  }
  throw failure ?? new RegistryError("UNAVAILABLE", "no source gives the bytes any more");
}

/** What the source gives from `position` on; `undefined` when it says that it does not have it, or has another blob. @throws why it cannot answer now. */
async function reopened(
  source: TransferSource,
  position: number,
  size: number | undefined,
  signal: AbortSignal,
): Promise<Given | undefined> {
  const lookup = await source.ask(position === 0 ? undefined : { start: position }, signal);
  if (lookup.kind === "unavailable") throw lookup.error;
  if (lookup.kind !== "found") return undefined;
  const { content, descriptor, range, unsized } = lookup.value;
  const total = unsized ? undefined : descriptor.size;
  const sameSize = total === undefined || size === undefined || total === size;
  if (sameSize && (range === undefined || range.start === position)) return { content, skip: range ? 0 : position, total };
  if (content.kind === "stream") content.open().destroy();
  return undefined;
}

/** The signal ends it even where the source does not know of it. */
async function* contentOf({ content, skip }: Given, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted();
  const stream = content.kind === "stream" ? content.open() : undefined;
  const stop = onAbort(signal, () => stream?.destroy(new Error("given up")));
  let left = skip;
  try {
    for await (const chunk of stream ?? contentChunks(content)) {
      const skipped = Math.min(left, chunk.byteLength);
      left -= skipped;
      if (skipped < chunk.byteLength) yield chunk.subarray(skipped);
    }
  } finally {
    stop();
  }
}

/** The blob's size according to a source that was asked for more; NaN when it did not say that. `undefined` for every other error. */
function endOf(error: unknown): number | undefined {
  if (!isRegistryError(error) || error.code !== "RANGE_INVALID") return undefined;
  const { detail } = error;
  return typeof detail === "object" && detail !== null && "total" in detail && typeof detail.total === "number" ? detail.total : Number.NaN;
}

/** Exponential, with jitter, so that many transfers that were cut at once do not come back at once. As long as the source asks for, within reason. */
function pauseAfter(inVain: number, failure: unknown): number {
  const wanted = isRegistryError(failure) && failure.retryAfter !== undefined ? failure.retryAfter * 1000 : 0;
  return Math.min(longestPause, Math.max(wanted, firstPause * 2 ** (inVain - 1) * (0.5 + Math.random())));
}
