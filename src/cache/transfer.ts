import type { Clock } from "../core/clock.js";
import { type Content, contentChunks } from "../core/content.js";
import type { Hasher } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import type { Lookup } from "../core/lookup.js";
import type { ByteRange } from "../core/range.js";
import type { BlobContent } from "../core/registry.js";

/** One way to a blob's bytes. */
export interface TransferSource {
  ask(range: ByteRange | undefined): Promise<Lookup<BlobContent>>;
}

export interface TransferOptions {
  /** In the order in which they are tried. Those that gave bytes are added to `used`. */
  readonly sources: readonly TransferSource[];
  readonly used: Set<TransferSource>;
  /** What the first source answered already, from the first byte wanted on. */
  readonly first?: Content;
  /** The first byte wanted. */
  readonly from: number;
  /** Absent: nobody said it; the transfer ends where the source does. */
  readonly size: number | undefined;
  /** Has seen all bytes before `from`, and sees those that come. */
  readonly hasher: Hasher;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** Tries of one source in a row that bring no byte; then the next source is asked. */
const attempts = 3;
/** In all: a source that gives one byte a time does not keep a transfer going for ever. */
const resumptions = 30;
const firstPause = 200;
const longestPause = 10_000;

/** A source gave bytes that cannot be the blob's. */
export class WrongBytes extends RegistryError {
  constructor(message: string) {
    super("UNAVAILABLE", message);
  }
}

/** The bytes of a blob, in order, from whichever source gives them: a transfer that breaks off is resumed where it ended. */
export async function* transferred(o: TransferOptions): AsyncGenerator<Uint8Array> {
  const sources = [...o.sources];
  let position = o.from;
  let content = o.first;
  let failure: unknown;
  let inVain = 0;
  for (let tries = 0; tries <= resumptions; tries++) {
    const [source] = sources;
    if (!source) break;
    try {
      content ??= await reopened(source, position, o.size);
      if (!content) {
        sources.shift();
        continue;
      }
      for await (const chunk of contentChunks(content)) {
        o.used.add(source);
        o.hasher.update(chunk);
        position += chunk.byteLength;
        if (o.size !== undefined && position > o.size) throw new WrongBytes(`the source sent more than the ${o.size} bytes it has`);
        inVain = 0;
        yield chunk;
      }
      if (o.size === undefined || position === o.size) return;
      failure = new RegistryError("UNAVAILABLE", `the source sent ${position} of ${o.size} bytes`);
    } catch (error) {
      if (o.signal.aborted) throw o.signal.reason;
      if (error instanceof WrongBytes) throw error;
      failure = error;
    }
    content = undefined;
    if (++inVain >= attempts) {
      inVain = 0;
      sources.shift();
      continue;
    }
    await o.clock.sleep(pause(inVain, failure), o.signal);
  }
  throw failure ?? new RegistryError("UNAVAILABLE", "no source gives the bytes any more");
}

/** The content from `position` on; `undefined` when the source says that it does not have it, or has another blob. @throws why it cannot answer now. */
async function reopened(source: TransferSource, position: number, size: number | undefined): Promise<Content | undefined> {
  const lookup = await source.ask(position === 0 ? undefined : { start: position });
  if (lookup.kind === "unavailable") throw lookup.error;
  if (lookup.kind !== "found") return undefined;
  const { content, descriptor, range, unsized } = lookup.value;
  const fits = (unsized || size === undefined || descriptor.size === size) && (position === 0 || range?.start === position);
  if (fits) return content;
  if (content.kind === "stream") content.open().destroy();
  return undefined;
}

/** Exponential, with jitter so that many transfers cut at once do not come back at once; as long as the source asks for, within reason. */
function pause(inVain: number, failure: unknown): number {
  const asked = isRegistryError(failure) && failure.retryAfter !== undefined ? failure.retryAfter * 1000 : 0;
  return Math.min(longestPause, Math.max(asked, firstPause * 2 ** (inVain - 1) * (0.5 + Math.random())));
}
